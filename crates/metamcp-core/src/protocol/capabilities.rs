use serde::Deserialize;
use serde::de::IgnoredAny;

/// The capabilities of a client, as a bit set. Servers list different tools to clients with different capabilities, so the set
/// is part of the key of cached lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClientCapabilities(u8);

impl ClientCapabilities {
    /// The client capability `roots`.
    pub const ROOTS: Self = Self(1);
    /// The client capability `roots.listChanged`.
    pub const ROOTS_LIST_CHANGED: Self = Self(1 << 1);
    /// The client capability `sampling`.
    pub const SAMPLING: Self = Self(1 << 2);
    /// The client capability `sampling.context`.
    pub const SAMPLING_CONTEXT: Self = Self(1 << 3);
    /// The client capability `sampling.tools`.
    pub const SAMPLING_TOOLS: Self = Self(1 << 4);
    /// `elicitation` in form mode
    pub const ELICITATION_FORM: Self = Self(1 << 5);
    /// The client capability `elicitation.url`.
    pub const ELICITATION_URL: Self = Self(1 << 6);
    pub const ALL: Self = Self(0x7f);

    /// Parses a `ClientCapabilities` object. Unknown members are ignored.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        let capabilities: CapabilitiesJson = serde_json::from_slice(json)?;
        let mut set = Self::default();
        if let Some(roots) = capabilities.roots {
            set = set.with(Self::ROOTS);
            if roots.list_changed == Some(true) {
                set = set.with(Self::ROOTS_LIST_CHANGED);
            }
        }
        if let Some(sampling) = capabilities.sampling {
            set = set.with(Self::SAMPLING);
            set = if sampling.context.is_some() { set.with(Self::SAMPLING_CONTEXT) } else { set };
            set = if sampling.tools.is_some() { set.with(Self::SAMPLING_TOOLS) } else { set };
        }
        if let Some(elicitation) = capabilities.elicitation {
            // An empty object means form mode only (MCP 2025-11-25, elicitation).
            if elicitation.form.is_some() || elicitation.url.is_none() {
                set = set.with(Self::ELICITATION_FORM);
            }
            set = if elicitation.url.is_some() { set.with(Self::ELICITATION_URL) } else { set };
        }
        Ok(set)
    }

    /// Formats the set as a `ClientCapabilities` object.
    pub fn to_json(self) -> String {
        let mut members = Vec::new();
        if self.has(Self::ROOTS) {
            let list_changed = self.has(Self::ROOTS_LIST_CHANGED);
            members.push(format!("\"roots\":{}", if list_changed { "{\"listChanged\":true}" } else { "{}" }));
        }
        let mut add_member = |name: &str, is_present: bool, subs: &[(&str, Self)]| {
            if is_present {
                let subs: Vec<_> = subs
                    .iter()
                    .filter(|(_, bit)| self.has(*bit))
                    .map(|(s, _)| format!("\"{s}\":{{}}"))
                    .collect();
                members.push(format!("\"{name}\":{{{}}}", subs.join(",")));
            }
        };
        let sampling = [("context", Self::SAMPLING_CONTEXT), ("tools", Self::SAMPLING_TOOLS)];
        add_member("sampling", self.has(Self::SAMPLING), &sampling);
        let elicitation = [("form", Self::ELICITATION_FORM), ("url", Self::ELICITATION_URL)];
        add_member(
            "elicitation",
            self.has(Self::ELICITATION_FORM) || self.has(Self::ELICITATION_URL),
            &elicitation,
        );
        format!("{{{}}}", members.join(","))
    }

    /// The union of two sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The difference of two sets.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The intersection of two sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the set contains all of `other`.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether servers may send any request to the client.
    pub const fn can_receive_requests(self) -> bool {
        self.has(Self::ROOTS)
            || self.has(Self::SAMPLING)
            || self.has(Self::ELICITATION_FORM)
            || self.has(Self::ELICITATION_URL)
    }

    /// Encodes the set as one byte for sealed ids.
    pub const fn to_byte(self) -> u8 {
        self.0
    }

    /// Decodes the byte. Unknown bits are cleared.
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte & Self::ALL.0)
    }
}

#[derive(Deserialize)]
struct CapabilitiesJson {
    roots: Option<RootsJson>,
    sampling: Option<SamplingJson>,
    elicitation: Option<ElicitationJson>,
}

#[derive(Deserialize)]
struct RootsJson {
    #[serde(rename = "listChanged")]
    list_changed: Option<bool>,
}

#[derive(Deserialize)]
struct SamplingJson {
    context: Option<IgnoredAny>,
    tools: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct ElicitationJson {
    form: Option<IgnoredAny>,
    url: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: &str) {
        let set = ClientCapabilities::from_json(json.as_bytes()).expect("valid");
        assert_eq!(set.to_json(), expected);
        assert_eq!(ClientCapabilities::from_json(set.to_json().as_bytes()).expect("valid"), set);
    }

    #[test]
    fn reads_and_writes() {
        check("{}", "{}");
        check(
            r#"{"roots":{"listChanged":true},"experimental":{"x":1}}"#,
            r#"{"roots":{"listChanged":true}}"#,
        );
        check(r#"{"roots":{"listChanged":false}}"#, r#"{"roots":{}}"#);
        check(r#"{"sampling":{}}"#, r#"{"sampling":{}}"#);
        check(r#"{"sampling":{"tools":{},"context":{}}}"#, r#"{"sampling":{"context":{},"tools":{}}}"#);
        check(r#"{"elicitation":{}}"#, r#"{"elicitation":{"form":{}}}"#);
        check(r#"{"elicitation":{"url":{}}}"#, r#"{"elicitation":{"url":{}}}"#);
        check(r#"{"elicitation":{"form":{},"url":{}}}"#, r#"{"elicitation":{"form":{},"url":{}}}"#);
        assert!(ClientCapabilities::from_json(br#"{"roots":3}"#).is_err());
    }
}
