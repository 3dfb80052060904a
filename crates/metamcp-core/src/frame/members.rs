//! The members of the objects that the scanner reads, and the rule that each name occurs once and in one spelling.
//!
//! JSON parsers disagree on which of two equal names counts, and some ignore case. Both would allow a message to name one tool
//! to the gateway and another to the server. So in the objects that the scanner reads, no name may occur twice (after decoding
//! escapes), and none may be a case variant of a known name.

use crate::frame::scan_error::{MessageObject, ScanError};
use crate::frame::span::{LoneSurrogate, Span, StringSpan, unescape};

/// Members per object. The largest real ones have a dozen. Each one is compared with all others.
pub const MEMBERS_MAX: usize = 64;

/// A member of a message that the scanner reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Field {
    Jsonrpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    Name,
    Uri,
    Cursor,
    TaskId,
    Level,
    ProtocolVersion,
    RequestId,
    ProgressToken,
    Ref,
    RequestState,
    InputResponses,
    Arguments,
    Meta,
    MetaProtocolVersion,
    MetaClientCapabilities,
    MetaProgressToken,
    MetaSubscriptionId,
    MetaLogLevel,
    RefName,
    RefUri,
    RefType,
}

impl Field {
    /// Its bit in a [`FieldSet`].
    pub(super) const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Its name and the object that it belongs to.
    pub(super) fn describe(self) -> (&'static str, MessageObject) {
        for object in
            [MessageObject::Envelope, MessageObject::Params, MessageObject::Meta, MessageObject::Ref]
        {
            if let Some((name, _)) = known_members(object).iter().find(|(_, field)| *field == self) {
                return (name, object);
            }
        }
        ("", MessageObject::Envelope)
    }
}

/// A set of [`Field`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FieldSet(pub(super) u32);

impl FieldSet {
    pub(super) fn has(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }

    /// Adds a field. Returns `false` if the set has it already.
    pub(super) fn add(&mut self, field: Field) -> bool {
        let is_new = !self.has(field);
        self.0 |= field.bit();
        is_new
    }
}

/// Defines the known members of each object once, for two ways of lookup.
macro_rules! known_members {
    ($($object:ident { $($name:literal $field:ident)* })*) => {
        /// The known members of an object.
        fn known_members(object: MessageObject) -> &'static [(&'static str, Field)] {
            match object {
                $(MessageObject::$object => &[$(($name, Field::$field)),*],)*
            }
        }

        /// Finds a known member by its exact name. Comparing with constants is several times as fast as walking the table.
        fn find_known(object: MessageObject, name: &[u8]) -> Option<Field> {
            match object {
                $(MessageObject::$object => match name {
                    $(name if name == $name.as_bytes() => Some(Field::$field),)*
                    _ => None,
                })*
            }
        }
    };
}

known_members! {
    Envelope {
        "jsonrpc" Jsonrpc
        "id" Id
        "method" Method
        "params" Params
        "result" Result
        "error" Error
    }
    Params {
        "name" Name
        "arguments" Arguments
        "_meta" Meta
        "uri" Uri
        "cursor" Cursor
        "taskId" TaskId
        "level" Level
        "protocolVersion" ProtocolVersion
        "requestId" RequestId
        "progressToken" ProgressToken
        "ref" Ref
        "requestState" RequestState
        "inputResponses" InputResponses
    }
    Meta {
        "io.modelcontextprotocol/protocolVersion" MetaProtocolVersion
        "io.modelcontextprotocol/clientCapabilities" MetaClientCapabilities
        "progressToken" MetaProgressToken
        "io.modelcontextprotocol/subscriptionId" MetaSubscriptionId
        "io.modelcontextprotocol/logLevel" MetaLogLevel
    }
    Ref {
        "name" RefName
        "uri" RefUri
        "type" RefType
    }
}

/// The members of one object that were read so far.
pub(super) struct ObjectMembers {
    object: MessageObject,
    count: usize,
    seen: FieldSet,
    /// Fields that occurred twice.
    duplicates: FieldSet,
    /// The index of the object's first name in [`NameTable`].
    names_from: usize,
    decoded_from: usize,
}

impl ObjectMembers {
    pub(super) fn seen(&self) -> FieldSet {
        self.seen
    }

    pub(super) fn duplicates(&self) -> FieldSet {
        self.duplicates
    }
}

/// The unknown names of all open objects. Reused for its allocations.
#[derive(Default)]
pub(super) struct NameTable {
    entries: Vec<NameEntry>,
    /// The values of escaped names, each decoded once.
    decoded: Vec<u8>,
}

/// The location of a name's value.
#[derive(Clone, Copy)]
enum NameEntry {
    InMessage(Span),
    Decoded { start: usize, end: usize },
}

impl NameTable {
    /// Starts to read the members of an object.
    pub(super) fn open(&self, object: MessageObject) -> ObjectMembers {
        ObjectMembers {
            object,
            count: 0,
            seen: FieldSet::default(),
            duplicates: FieldSet::default(),
            names_from: self.entries.len(),
            decoded_from: self.decoded.len(),
        }
    }

    /// Closes an object. Objects are closed in the reverse order of opening.
    pub(super) fn close(&mut self, members: &ObjectMembers) {
        self.entries.truncate(members.names_from);
        self.decoded.truncate(members.decoded_from);
    }

    /// Adds the next name of an object. Returns the known member that it names, if any.
    pub(super) fn add(
        &mut self,
        members: &mut ObjectMembers,
        name: StringSpan,
        message: &[u8],
    ) -> Result<Option<Field>, ScanError> {
        let object = members.object;
        members.count += 1;
        let decoded = self.decoded.len();
        let entry = if name.escaped {
            if unescape(name.inner(message), &mut self.decoded) == Err(LoneSurrogate) {
                return Err(ScanError::Surrogate { object });
            }
            NameEntry::Decoded { start: decoded, end: self.decoded.len() }
        } else {
            // Without the quotes.
            NameEntry::InMessage(Span { start: name.span.start + 1, end: name.span.end - 1 })
        };
        let value = self.value(entry, message);
        if let Some(field) = find_known(object, value) {
            self.decoded.truncate(decoded);
            if members.seen.add(field) {
                return Ok(Some(field));
            }
            members.duplicates.add(field);
            return Err(ScanError::Duplicate { object });
        }
        if let Some(member) = case_variant(object, value) {
            return Err(ScanError::CaseVariant { member, object });
        }
        if members.count > MEMBERS_MAX {
            return Err(ScanError::Members { object });
        }
        let earlier = &self.entries[members.names_from..];
        if earlier.iter().any(|entry| self.value(*entry, message) == value) {
            return Err(ScanError::Duplicate { object });
        }
        self.entries.push(entry);
        Ok(None)
    }

    fn value<'a>(&'a self, entry: NameEntry, message: &'a [u8]) -> &'a [u8] {
        match entry {
            NameEntry::InMessage(span) => span.slice(message),
            NameEntry::Decoded { start, end } => &self.decoded[start..end],
        }
    }
}

/// Returns the known name that a case-insensitive parser would read `name` as. `name` is not a known name itself.
fn case_variant(object: MessageObject, name: &[u8]) -> Option<&'static str> {
    if name.is_ascii() {
        return find_ignoring_case(object, name);
    }
    let mut folded = [0; FOLDED_BYTES_MAX];
    let mut len = 0;
    let mut rest = name;
    while let Some(&first) = rest.first() {
        let (byte, taken) = if rest.starts_with(LONG_S) {
            (b's', LONG_S.len())
        } else if rest.starts_with(KELVIN) {
            (b'k', KELVIN.len())
        } else {
            (first, 1)
        };
        *folded.get_mut(len)? = byte;
        len += 1;
        rest = &rest[taken..];
    }
    find_ignoring_case(object, &folded[..len])
}

// The two characters outside ASCII that simple case folding maps to ASCII letters.
const LONG_S: &[u8] = "\u{17f}".as_bytes();
const KELVIN: &[u8] = "\u{212a}".as_bytes();

/// Longer than every known name, so a longer name is a variant of none.
const FOLDED_BYTES_MAX: usize = 64;

fn find_ignoring_case(object: MessageObject, name: &[u8]) -> Option<&'static str> {
    known_members(object)
        .iter()
        .map(|(name, _)| *name)
        .find(|known| known.as_bytes().eq_ignore_ascii_case(name))
}
