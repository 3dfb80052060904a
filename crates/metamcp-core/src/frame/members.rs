//! The names we read, and the rule that each is written once and in one way.
//!
//! Servers behind us disagree on which of two equal names counts, and some match names without regard to
//! case; both are ways to show us one tool and the server another. So in the objects that we read, no name
//! may come twice (after decoding escapes), and none may be a case variant of a name that we know.

use crate::frame::fault::{MessageObject, ScanError};
use crate::frame::span::{LoneSurrogate, Span, StringSpan, unescape};

/// Members of one object of the envelope. The largest real ones have a dozen; more cost a comparison with
/// each of the others.
pub const MEMBERS_MAX: usize = 64;

/// A name that we read.
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
    /// Its bit in a [`Fields`].
    pub(super) const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Its name and place.
    pub(super) fn described(self) -> (&'static str, MessageObject) {
        for place in [MessageObject::Envelope, MessageObject::Params, MessageObject::Meta, MessageObject::Ref]
        {
            if let Some((name, _)) = known(place).iter().find(|(_, field)| *field == self) {
                return (name, place);
            }
        }
        ("", MessageObject::Envelope)
    }
}

/// A set of [`Field`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields(pub(super) u32);

impl Fields {
    pub(super) fn has(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }

    /// Adds a field; false if it was there.
    pub(super) fn add(&mut self, field: Field) -> bool {
        let is_new = !self.has(field);
        self.0 |= field.bit();
        is_new
    }
}

/// Writes the names of each object down once, for two ways of looking them up.
macro_rules! known {
    ($($place:ident { $($name:literal $field:ident)* })*) => {
        /// The names we read in an object.
        fn known(place: MessageObject) -> &'static [(&'static str, Field)] {
            match place {
                $(MessageObject::$place => &[$(($name, Field::$field)),*],)*
            }
        }

        /// The name we read that is written just so. Compares with constants, which is several times as
        /// fast as a walk through the table.
        fn exact(place: MessageObject, name: &[u8]) -> Option<Field> {
            match place {
                $(MessageObject::$place => match name {
                    $(name if name == $name.as_bytes() => Some(Field::$field),)*
                    _ => None,
                })*
            }
        }
    };
}

known! {
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

/// The members of one object seen so far.
pub(super) struct Members {
    place: MessageObject,
    count: usize,
    seen: Fields,
    /// Fields that came twice.
    doubled: Fields,
    /// Where this object's names begin in [`Names`].
    names_from: usize,
    decoded_from: usize,
}

impl Members {
    pub(super) fn seen(&self) -> Fields {
        self.seen
    }

    pub(super) fn doubled(&self) -> Fields {
        self.doubled
    }
}

/// The names we do not read, of the objects that are open. Kept for its allocations.
#[derive(Default)]
pub(super) struct Names {
    entries: Vec<Entry>,
    /// The values of names that were written with escapes, each decoded once.
    decoded: Vec<u8>,
}

/// Where the value of a name lies.
#[derive(Clone, Copy)]
enum Entry {
    InMessage(Span),
    Decoded { start: usize, end: usize },
}

impl Names {
    /// Begins an object.
    pub(super) fn open(&self, place: MessageObject) -> Members {
        Members {
            place,
            count: 0,
            seen: Fields::default(),
            doubled: Fields::default(),
            names_from: self.entries.len(),
            decoded_from: self.decoded.len(),
        }
    }

    /// Ends an object. Objects end in the reverse order of their beginning.
    pub(super) fn close(&mut self, members: &Members) {
        self.entries.truncate(members.names_from);
        self.decoded.truncate(members.decoded_from);
    }

    /// Takes the next name of an object; says which of those we read it is, if any.
    pub(super) fn take(
        &mut self,
        members: &mut Members,
        name: StringSpan,
        message: &[u8],
    ) -> Result<Option<Field>, ScanError> {
        let place = members.place;
        members.count += 1;
        let decoded = self.decoded.len();
        let entry = if name.escaped {
            if unescape(name.inner(message), &mut self.decoded) == Err(LoneSurrogate) {
                return Err(ScanError::Surrogate { place });
            }
            Entry::Decoded { start: decoded, end: self.decoded.len() }
        } else {
            // Within the quotes.
            Entry::InMessage(Span { start: name.span.start + 1, end: name.span.end - 1 })
        };
        let value = self.value(entry, message);
        if let Some(field) = exact(place, value) {
            self.decoded.truncate(decoded);
            if members.seen.add(field) {
                return Ok(Some(field));
            }
            members.doubled.add(field);
            return Err(ScanError::Duplicate { place });
        }
        if let Some(member) = case_variant(place, value) {
            return Err(ScanError::CaseVariant { member, place });
        }
        if members.count > MEMBERS_MAX {
            return Err(ScanError::Members { place });
        }
        let others = &self.entries[members.names_from..];
        if others.iter().any(|other| self.value(*other, message) == value) {
            return Err(ScanError::Duplicate { place });
        }
        self.entries.push(entry);
        Ok(None)
    }

    fn value<'a>(&'a self, entry: Entry, message: &'a [u8]) -> &'a [u8] {
        match entry {
            Entry::InMessage(span) => span.slice(message),
            Entry::Decoded { start, end } => &self.decoded[start..end],
        }
    }
}

/// The name that a reader which ignores case would take `name` for; `name` itself is none of them.
fn case_variant(place: MessageObject, name: &[u8]) -> Option<&'static str> {
    if name.is_ascii() {
        return same_folded(place, name);
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
    same_folded(place, &folded[..len])
}

// The two characters outside ASCII which simple case folding turns into ASCII letters.
const LONG_S: &[u8] = "\u{17f}".as_bytes();
const KELVIN: &[u8] = "\u{212a}".as_bytes();

/// Longer than every name we know: a longer one is a variant of none.
const FOLDED_BYTES_MAX: usize = 64;

fn same_folded(place: MessageObject, name: &[u8]) -> Option<&'static str> {
    known(place).iter().map(|(known, _)| *known).find(|known| known.as_bytes().eq_ignore_ascii_case(name))
}
