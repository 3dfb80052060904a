//! Requests of the suite itself, over TLS if that is what the gateway serves.

use rustls_pki_types::CertificateDer;

use crate::support::{Client, Gateway, HyperClient, Request, Transport};

/// Who sends them.
pub struct Admin {
    pub key: String,
    /// Of the gateway, if it serves TLS.
    pub certificate: Option<CertificateDer<'static>>,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub session: Option<String>,
    pub text: String,
}

impl Admin {
    /// Sends a request over a connection of its own.
    pub fn ask(&self, gateway: &Gateway, request: &Request) -> Answer {
        let Some(certificate) = &self.certificate else {
            let answered = Client::once(gateway.address, request);
            let session = answered.header("mcp-session-id").map(str::to_owned);
            return Answer { status: answered.status, session, text: answered.text() };
        };
        let client = HyperClient::new(Transport::Http1Tls, gateway.address, Some(certificate.clone()));
        let response = client.open(request, false);
        let (status, session) = response.head();
        Answer { status, session, text: response.end() }
    }

    /// The same as an administrator.
    pub fn administer(&self, gateway: &Gateway, request: &Request) -> Answer {
        let request = request.clone().with("Authorization", format!("Bearer {}", self.key));
        self.ask(gateway, &request.with("Content-Type", "application/json"))
    }
}
