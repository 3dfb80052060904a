//! The examples of the OpenAPI document, sent as they are.

use crate::support::{Client, Peer, Request, Setup};
use metamcp::admin::document;
use metamcp_store::store::{Grants, Role};
use serde_json::json;

/// Methods in the order in which the requests for one path are sent: an object is changed once it exists.
const METHODS: [&str; 3] = ["post", "put", "patch"];

#[test]
fn every_body_has_an_example_that_works() {
    // In place of the server of the examples, which is elsewhere, where a request reaches it.
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    // Servers before the endpoints that refer to them.
    let (mut order, mut sent): (Vec<_>, _) = (paths.iter().collect(), 0);
    order.sort_by_key(|(path, _)| path.contains("endpoints"));
    for (path, operations) in order {
        for (method, operation) in METHODS.map(|method| (method, &operations[method])) {
            let Some(content) = operation["requestBody"]["content"].as_object() else { continue };
            let mut address = path.clone();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "path" {
                    let name = parameter["name"].as_str().unwrap();
                    let example = match name {
                        "server" if path.ends_with("/execute") => "a",
                        "tool" => "echo",
                        _ => parameter["example"].as_str().unwrap(),
                    };
                    address = address.replace(&format!("{{{name}}}"), example);
                }
            }
            for (media_type, content) in content {
                let mut example = content["example"].clone();
                if path.ends_with("/auth/token") {
                    example = json!({"api_key": admin});
                }
                let request = Request::new(&method.to_uppercase(), &address)
                    .with("Authorization", format!("Bearer {admin}"))
                    .with("Content-Type", media_type)
                    .body(example.to_string());
                let response = Client::once(gateway.address, &request);
                assert!(response.status < 300, "{method} {address} {example}: {}", response.text());
                sent += 1;
            }
        }
    }
    assert!(sent >= 10, "{sent} examples");
}
