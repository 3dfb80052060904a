//! Reads the envelope of a message from its tokens.

use crate::frame::members::{Field, FieldSet, NameTable, ObjectMembers};
use crate::frame::scan::envelope::{Envelope, MessageKind, MessageMeta, MessageParams, ParamsForm};
use crate::frame::scan::member_types::{ALWAYS, EXPECTED, routed_by};
use crate::frame::scan_error::{MessageObject, ScanError, ScanRejection};
use crate::frame::span::{IdForm, IdSpan, LoneSurrogate, Span, StringSpan, unescape};
use crate::frame::tokens::{Tokens, ValueType};

/// Messages per batch. Revision 2025-03-26 sets no limit; real batches have a handful.
pub const BATCH_ITEMS_MAX: usize = 64;

/// Returns the spans of the items of an array.
pub(super) fn read_batch(tokens: Tokens<'_>) -> Result<Vec<Span>, ScanError> {
    if tokens.value_type(0) != ValueType::Array {
        return Err(ScanError::BatchSize);
    }
    let mut items = Vec::new();
    let mut at = 1;
    while at < tokens.indexes.len() && tokens.byte(at) != b']' {
        if items.len() == BATCH_ITEMS_MAX {
            return Err(ScanError::BatchSize);
        }
        let end = tokens.index_after(at);
        items.push(tokens.span(at, end));
        at = end + usize::from(tokens.byte(end) == b',');
    }
    if items.is_empty() { Err(ScanError::BatchSize) } else { Ok(items) }
}

/// Reads a message whose JSON is valid.
pub(super) fn read_envelope(tokens: Tokens<'_>, names: &mut NameTable) -> Result<Envelope, ScanRejection> {
    match tokens.value_type(0) {
        ValueType::Object => {}
        ValueType::Array => return Err(ScanRejection { error: ScanError::Batch, id: None }),
        _ => return Err(ScanRejection { error: ScanError::NotObject, id: None }),
    }
    let mut reader = EnvelopeReader { tokens, names, error: None, mistyped: FieldSet::default() };
    let draft = reader.read_draft();
    let is_id_certain = !draft.is_id_ambiguous;
    let id = draft.id.filter(|id| is_id_certain && id.form != IdForm::Null);
    reader.finish(draft).map_err(|error| ScanRejection { error, id })
}

/// The members of the envelope as read, before they are validated together.
#[derive(Default)]
struct EnvelopeDraft {
    seen: FieldSet,
    jsonrpc: Option<StringSpan>,
    id: Option<IdSpan>,
    /// Whether parsers may disagree on the id. The response has no id then.
    is_id_ambiguous: bool,
    method: Option<StringSpan>,
    outcome: Option<Span>,
    params: Box<MessageParams>,
}

/// Reads on after an error, since the id for the response may follow.
struct EnvelopeReader<'a> {
    tokens: Tokens<'a>,
    names: &'a mut NameTable,
    /// The first error; later ones are dropped.
    error: Option<ScanError>,
    /// Members of the wrong type. Whether that is an error depends on the method, which may follow.
    mistyped: FieldSet,
}

impl EnvelopeReader<'_> {
    fn read_draft(&mut self) -> EnvelopeDraft {
        let mut draft = EnvelopeDraft::default();
        let mut members = self.names.open(MessageObject::Envelope);
        let mut at = 0;
        while let Some((field, value)) = self.next_member(&mut members, at) {
            at = match field {
                Ok(Some(field)) => self.read_envelope_member(&mut draft, field, value),
                Ok(None) => self.tokens.index_after(value),
                Err(error) => {
                    draft.is_id_ambiguous |= matches!(error, ScanError::CaseVariant { member: "id", .. });
                    self.skip_invalid(error, value)
                }
            };
        }
        draft.is_id_ambiguous |= members.duplicates().has(Field::Id);
        draft.seen = members.seen();
        self.names.close(&members);
        draft
    }

    /// Reads the value of a member of the envelope. Returns the index behind it, as do the methods below.
    fn read_envelope_member(&mut self, draft: &mut EnvelopeDraft, field: Field, value: usize) -> usize {
        if field == Field::Params {
            return self.read_object(field, value, |reader| reader.read_params(&mut draft.params, value));
        }
        let end = self.tokens.index_after(value);
        match field {
            Field::Jsonrpc => draft.jsonrpc = self.read_string(field, value),
            Field::Id => draft.id = self.read_id(field, value),
            Field::Method => draft.method = self.read_string(field, value),
            Field::Error | Field::Result => {
                draft.outcome = Some(self.tokens.span(value, end));
                if field == Field::Error && self.tokens.value_type(value) != ValueType::Object {
                    self.mistyped.add(field);
                }
            }
            _ => {}
        }
        end
    }

    fn read_params(&mut self, params: &mut MessageParams, open: usize) -> usize {
        params.form = ParamsForm::Object;
        let mut members = self.names.open(MessageObject::Params);
        let mut at = open;
        while let Some((field, value)) = self.next_member(&mut members, at) {
            at = match field {
                Ok(Some(field)) => self.read_params_member(params, field, value),
                Ok(None) => self.tokens.index_after(value),
                Err(error) => self.skip_invalid(error, value),
            };
        }
        self.names.close(&members);
        let end = self.index_after_brace(at);
        params.object = Some(self.tokens.span(open, end));
        end
    }

    fn read_params_member(&mut self, params: &mut MessageParams, field: Field, value: usize) -> usize {
        let is_null = self.tokens.value_type(value) == ValueType::Null;
        match field {
            Field::Meta if !is_null => {
                return self.read_object(field, value, |reader| reader.read_meta(&mut params.meta, value));
            }
            Field::Ref => return self.read_object(field, value, |reader| reader.read_ref(params, value)),
            _ => {}
        }
        let end = self.tokens.index_after(value);
        match field {
            Field::Name => params.name = self.read_string(field, value),
            Field::Uri => params.uri = self.read_string(field, value),
            Field::Cursor if !is_null => params.cursor = self.read_string(field, value),
            Field::TaskId => params.task_id = self.read_string(field, value),
            Field::Level => params.level = self.read_string(field, value),
            Field::ProtocolVersion => params.protocol_version = self.read_string(field, value),
            Field::RequestId => params.request_id = self.read_id(field, value),
            Field::ProgressToken => params.progress_token = self.read_id(field, value),
            Field::RequestState if !is_null => params.request_state = self.read_string(field, value),
            Field::InputResponses => params.has_input_responses = true,
            Field::Arguments => params.arguments = Some(self.tokens.span(value, end)),
            _ => {}
        }
        end
    }

    fn read_meta(&mut self, meta: &mut MessageMeta, open: usize) -> usize {
        meta.present = true;
        let mut members = self.names.open(MessageObject::Meta);
        let mut at = open;
        while let Some((field, value)) = self.next_member(&mut members, at) {
            at = match field {
                Ok(Some(field)) => self.read_meta_member(meta, field, value),
                Ok(None) => self.tokens.index_after(value),
                Err(error) => self.skip_invalid(error, value),
            };
        }
        self.names.close(&members);
        let end = self.index_after_brace(at);
        meta.object = Some(self.tokens.span(open, end));
        end
    }

    fn read_meta_member(&mut self, meta: &mut MessageMeta, field: Field, value: usize) -> usize {
        let end = self.tokens.index_after(value);
        let form = self.tokens.value_type(value);
        match field {
            Field::MetaProtocolVersion => meta.protocol_version = self.read_string(field, value),
            Field::MetaClientCapabilities => {
                meta.client_capabilities = Some(self.tokens.span(value, end));
                meta.client_capabilities_is_object = form == ValueType::Object;
            }
            Field::MetaProgressToken if form != ValueType::Null => {
                meta.progress_token = self.read_id(field, value);
            }
            Field::MetaSubscriptionId => meta.subscription_id = self.read_id(field, value),
            Field::MetaLogLevel if form != ValueType::Null => meta.log_level = self.read_string(field, value),
            _ => {}
        }
        end
    }

    fn read_ref(&mut self, params: &mut MessageParams, open: usize) -> usize {
        let mut members = self.names.open(MessageObject::Ref);
        let mut at = open;
        while let Some((field, value)) = self.next_member(&mut members, at) {
            at = self.tokens.index_after(value);
            match field {
                Ok(Some(field @ Field::RefName)) => params.ref_name = self.read_string(field, value),
                Ok(Some(field @ Field::RefUri)) => params.ref_uri = self.read_string(field, value),
                Ok(_) => {}
                Err(error) => self.record_error(error),
            }
        }
        self.names.close(&members);
        self.index_after_brace(at)
    }

    /// Reads an object with `read`, or skips a value of another type.
    fn read_object(&mut self, field: Field, value: usize, read: impl FnOnce(&mut Self) -> usize) -> usize {
        if self.tokens.value_type(value) == ValueType::Object {
            return read(self);
        }
        self.mistyped.add(field);
        self.tokens.index_after(value)
    }

    /// Records an error and skips the value that it is about.
    fn skip_invalid(&mut self, error: ScanError, value: usize) -> usize {
        self.record_error(error);
        self.tokens.index_after(value)
    }

    /// The index behind an object whose members are all read. `at` is the index of its `}`, or of its `{` if it is empty.
    fn index_after_brace(&self, at: usize) -> usize {
        at + 1 + usize::from(self.tokens.byte(at) == b'{')
    }

    /// Reads the name of the next member. `at` is the index of the object's `{` or of the last `,`. Returns the member with the
    /// index of its value.
    fn next_member(
        &mut self,
        members: &mut ObjectMembers,
        at: usize,
    ) -> Option<(Result<Option<Field>, ScanError>, usize)> {
        let name = at + 1;
        // Not a name: the object is empty, or `at` is its closing brace.
        if !matches!(self.tokens.byte(at), b'{' | b',') || self.tokens.byte(name) != b'"' {
            return None;
        }
        let text = self.tokens.string(name);
        Some((self.names.add(members, text, self.tokens.bytes), name + 2))
    }

    fn read_string(&mut self, field: Field, value: usize) -> Option<StringSpan> {
        if self.tokens.value_type(value) != ValueType::String {
            self.mistyped.add(field);
            return None;
        }
        let text = self.tokens.string(value);
        if text.escaped {
            let mut decoded = Vec::new();
            if unescape(text.inner(self.tokens.bytes), &mut decoded) == Err(LoneSurrogate) {
                self.record_error(ScanError::Surrogate { object: field.describe().1 });
            }
        }
        Some(text)
    }

    fn read_id(&mut self, field: Field, value: usize) -> Option<IdSpan> {
        let span = self.tokens.span(value, value + 1);
        let form = match self.tokens.value_type(value) {
            ValueType::String => {
                self.read_string(field, value);
                IdForm::String
            }
            // Only integers: a minus sign and digits.
            ValueType::Number
                if span
                    .slice(self.tokens.bytes)
                    .iter()
                    .all(|&byte| byte == b'-' || byte.is_ascii_digit()) =>
            {
                IdForm::Number
            }
            ValueType::Null if field == Field::Id => IdForm::Null,
            _ => {
                self.mistyped.add(field);
                return None;
            }
        };
        Some(IdSpan { span, form })
    }

    fn record_error(&mut self, error: ScanError) {
        self.error.get_or_insert(error);
    }

    /// Determines the kind of the message, and validates it.
    fn finish(&self, draft: EnvelopeDraft) -> Result<Envelope, ScanError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let bytes = self.tokens.bytes;
        if !draft.jsonrpc.is_some_and(|version| is_version_2(version, bytes)) {
            return Err(ScanError::Version);
        }
        let has = |field| draft.seen.has(field);
        let kind = match (has(Field::Method), has(Field::Result), has(Field::Error)) {
            (true, false, false) if has(Field::Id) => MessageKind::Request,
            (true, false, false) => MessageKind::Notification,
            (false, true, false) if !has(Field::Params) => MessageKind::Response,
            (false, false, true) if !has(Field::Params) => MessageKind::Error,
            _ => return Err(ScanError::Shape),
        };
        self.check_types(draft.method.as_ref())?;
        match (kind, draft.id.map(|id| id.form)) {
            (MessageKind::Request | MessageKind::Response, Some(IdForm::Null)) => {
                return Err(ScanError::NullId);
            }
            (MessageKind::Response, None) => return Err(ScanError::NoId),
            _ => {}
        }
        let EnvelopeDraft { id, method, outcome, params, .. } = draft;
        Ok(Envelope { kind, id, method, outcome, params })
    }

    /// Rejects a member of the wrong type if the method is routed by it.
    fn check_types(&self, method: Option<&StringSpan>) -> Result<(), ScanError> {
        if self.mistyped.0 == 0 {
            return Ok(());
        }
        let name = method.map(|method| method.decode(self.tokens.bytes)).unwrap_or_default();
        let wrong = self.mistyped.0 & (ALWAYS | routed_by(&name));
        let Some((field, expected)) = EXPECTED.iter().find(|(field, _)| wrong & field.bit() != 0) else {
            return Ok(());
        };
        let (member, object) = field.describe();
        Err(ScanError::Type { member, object, expected })
    }
}

fn is_version_2(version: StringSpan, message: &[u8]) -> bool {
    version.span.slice(message) == br#""2.0""# || (version.escaped && version.decode(message) == "2.0")
}
