//! Which events a reader wants.

use metamcp_core::base::{EventKind, KeyId, ServerName, Severity};

use super::logged_event::LoggedEvent;

/// Which events a reader wants: those that satisfy every part that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Empty for all kinds.
    kinds: Vec<EventKind>,
    /// The least severity that is admitted.
    severity: Option<Severity>,
    server: Option<ServerName>,
    endpoint: Option<String>,
    key: Option<KeyId>,
}

/// A part of a filter that no event can satisfy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("is no kind of event: {}, or a group such as `call.*`", kinds())]
    Kind,
    #[error("is no severity: info, warning, error")]
    Severity,
    #[error("is no name of a server")]
    Server,
    #[error("is no id of a key")]
    Key,
}

fn kinds() -> String {
    EventKind::ALL.map(EventKind::as_str).join(", ")
}

impl EventFilter {
    /// Admits these types, or all if there are none, from this severity on.
    pub fn new(kinds: &[EventKind], severity: Severity) -> Self {
        Self { kinds: kinds.to_vec(), severity: Some(severity), ..Self::default() }
    }

    /// Admits only these types: names, or groups such as `server.*`, separated by commas.
    pub fn set_kinds(&mut self, text: &str) -> Result<(), FilterError> {
        self.kinds = EventKind::parse_list(text).ok_or(FilterError::Kind)?;
        Ok(())
    }

    pub fn set_severity(&mut self, text: &str) -> Result<(), FilterError> {
        let found = Severity::ALL.into_iter().find(|severity| severity.as_str() == text);
        self.severity = Some(found.ok_or(FilterError::Severity)?);
        Ok(())
    }

    pub fn set_server(&mut self, text: &str) -> Result<(), FilterError> {
        self.server = Some(ServerName::new(text).map_err(|_| FilterError::Server)?);
        Ok(())
    }

    /// The name of an endpoint, or `servers/NAME`.
    pub fn set_endpoint(&mut self, text: &str) {
        self.endpoint = Some(text.to_owned());
    }

    pub fn set_key(&mut self, text: &str) -> Result<(), FilterError> {
        self.key = Some(KeyId::parse(text).ok_or(FilterError::Key)?);
        Ok(())
    }

    /// Admits only events of this key. Returns whether that is what was asked for, or nothing was.
    #[must_use]
    pub fn confine_to(&mut self, key: KeyId) -> bool {
        self.key.replace(key).is_none_or(|asked| asked == key)
    }

    /// Whether events of calls can pass.
    pub fn wants_calls(&self) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|kind| kind.is_of_call())
    }

    pub fn admits(&self, event: &LoggedEvent) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.severity.is_none_or(|least| event.severity >= least)
            && self.server.as_ref().is_none_or(|server| event.server.as_ref() == Some(server))
            && self.endpoint.as_deref().is_none_or(|endpoint| event.endpoint.as_deref() == Some(endpoint))
            && self.key.is_none_or(|key| event.key == Some(key))
    }
}
