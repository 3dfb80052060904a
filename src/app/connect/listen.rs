//! Subscriptions of a Modern client: one request whose stream is to last as long as the client.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::Bridge;
use super::answer::Hearing;
use super::message::Message;
use super::trouble::Trouble;
use crate::protocol::Method;
use crate::upstream::{Lane, Outgoing};

/// An acknowledgement, as far as it tells what is subscribed to.
#[derive(Deserialize)]
struct Acknowledgement<'a> {
    #[serde(borrow)]
    params: Params<'a>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(default)]
    notifications: Notifications,
    #[serde(rename = "_meta", borrow)]
    meta: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Notifications {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

/// What a client is told for what it may have missed while its subscription was broken off, of one that was
/// acknowledged again: everything that it subscribed to may have changed.
pub fn missed(acknowledgement: &[u8]) -> Vec<String> {
    let Ok(Acknowledgement { params }) = serde_json::from_slice::<Acknowledgement<'_>>(acknowledgement)
    else {
        return Vec::new();
    };
    let Params { notifications: of, meta } = params;
    let lists = [
        (of.tools_list_changed, Method::ToolsListChanged),
        (of.prompts_list_changed, Method::PromptsListChanged),
        (of.resources_list_changed, Method::ResourcesListChanged),
    ];
    let notification = |method: &str, member: &str| {
        format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{member}"_meta":{meta}}}}}"#)
    };
    let lists = lists.into_iter().filter(|(is_told, _)| *is_told);
    let lists = lists.map(|(_, method)| notification(method.as_str(), ""));
    let updated = |uri: &String| {
        let uri = serde_json::Value::from(uri.as_str());
        notification("notifications/resources/updated", &format!(r#""uri":{uri},"#))
    };
    lists.chain(of.resource_subscriptions.iter().map(updated)).collect()
}

impl Bridge {
    /// Listens until the endpoint says that it is over. A client at a pipe sees no connection break, so a
    /// stream that breaks off is asked for again, as long as it takes; the client has its acknowledgement
    /// already. It reads nothing, so it may be repeated.
    pub(super) async fn listen(&self, message: &Message) -> Result<Bytes, Trouble> {
        let id = message.id();
        let mut hearing = Hearing::of(&id);
        let mut tries = 0;
        loop {
            let trouble = match self.listen_once(message, &mut hearing).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) if hearing.is_acknowledged && trouble.may_pass() => trouble,
                Err(trouble) => return Err(trouble),
            };
            if std::mem::take(&mut hearing.is_alive) {
                tries = 0;
            }
            tracing::info!("a subscription broke off, and is asked for again: {trouble}");
            sleep(hearing.pause(tries)).await;
            tries = tries.saturating_add(1);
        }
    }

    async fn listen_once(&self, message: &Message, hearing: &mut Hearing<'_>) -> Result<Bytes, Trouble> {
        let request: Outgoing = message.outgoing(None, &self.params.borrow())?;
        let answered = self.pool.send(&request, Lane::Stream).await?;
        self.was_there.set(true);
        self.hear(message, *answered, None, hearing).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_subscribed_to_may_have_changed() {
        let check = |notifications: &str, expected: &[&str]| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{notifications},"_meta":{{"s":1}}}}}}"#
            );
            assert_eq!(missed(text.as_bytes()), expected, "{notifications}");
        };
        check("{}", &[]);
        check("nonsense", &[]);
        check(
            r#"{"toolsListChanged":true,"promptsListChanged":false,"x":1,"resourceSubscriptions":["a\"b"]}"#,
            &[
                r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"s":1}}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a\"b","_meta":{"s":1}}}"#,
            ],
        );
    }
}
