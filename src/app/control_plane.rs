//! Connects the HTTP server to the administration, which do not know each other.

use std::future::Future;
use std::pin::Pin;

use crate::admin::{self, ControlPlane};
use crate::server::{ControlBody, ControlRequest, ControlResponse, ControlService};

/// The administration as the server's control plane.
pub struct AdminControlPlane(pub ControlPlane);

impl ControlService for AdminControlPlane {
    fn methods(&self, path: &str) -> Option<String> {
        admin::methods(path)
    }

    fn answer<'a>(
        &'a self,
        request: ControlRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = ControlResponse> + 'a>> {
        let ControlRequest { head, certificate, body, counters, metrics, records } = request;
        Box::pin(async move {
            let request = admin::ControlPlaneRequest { head, certificate, body, counters, metrics, records };
            let response = self.0.respond(request).await;
            response.map(|body| match body {
                admin::ControlPlaneBody::Whole(bytes, permit) => ControlBody::Whole(bytes, permit),
                admin::ControlPlaneBody::Stream(events, owner) => ControlBody::Stream(events, owner),
            })
        })
    }
}
