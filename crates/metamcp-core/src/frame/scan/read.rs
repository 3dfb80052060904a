//! The walk over the marks of one message.

use crate::frame::fault::{MessageObject, ScanError, ScanRejection};
use crate::frame::members::{Field, Fields, Members, Names};
use crate::frame::scan::types::{ALWAYS, EXPECTED, routed_by};
use crate::frame::scan::{BATCH_ITEMS_MAX, Envelope, MessageKind, MessageMeta, MessageParams, ParamsForm};
use crate::frame::span::{IdForm, IdSpan, LoneSurrogate, Span, StringSpan, unescape};
use crate::frame::tokens::{Form, Tokens};

/// The places of the items of an array.
pub(super) fn batch(tokens: Tokens<'_>) -> Result<Vec<Span>, ScanError> {
    if tokens.form(0) != Form::Array {
        return Err(ScanError::BatchSize);
    }
    let mut items = Vec::new();
    let mut at = 1;
    while at < tokens.marks.len() && tokens.byte(at) != b']' {
        if items.len() == BATCH_ITEMS_MAX {
            return Err(ScanError::BatchSize);
        }
        let behind = tokens.behind(at);
        items.push(tokens.span(at, behind));
        at = behind + usize::from(tokens.byte(behind) == b',');
    }
    if items.is_empty() { Err(ScanError::BatchSize) } else { Ok(items) }
}

/// Reads a message whose JSON is known to be right.
pub(super) fn envelope(tokens: Tokens<'_>, names: &mut Names) -> Result<Envelope, ScanRejection> {
    match tokens.form(0) {
        Form::Object => {}
        Form::Array => return Err(ScanRejection { error: ScanError::Batch, id: None }),
        _ => return Err(ScanRejection { error: ScanError::NotObject, id: None }),
    }
    let mut reader = Reader { tokens, names, fault: None, mistyped: Fields::default() };
    let draft = reader.draft();
    let id_is_certain = !draft.id_is_doubtful;
    let id = draft.id.filter(|id| id_is_certain && id.form != IdForm::Null);
    reader.judge(draft).map_err(|error| ScanRejection { error, id })
}

/// Envelope members as found, before they are judged together.
#[derive(Default)]
struct Draft {
    seen: Fields,
    jsonrpc: Option<StringSpan>,
    id: Option<IdSpan>,
    /// Whether readers may disagree on the id: then we answer with none.
    id_is_doubtful: bool,
    method: Option<StringSpan>,
    outcome: Option<Span>,
    params: Box<MessageParams>,
}

/// Walks on after a fault, since the id to answer with may stand behind it.
struct Reader<'a> {
    tokens: Tokens<'a>,
    names: &'a mut Names,
    /// The first fault.
    fault: Option<ScanError>,
    /// Members of the wrong type: whether that matters depends on the method, which may come later.
    mistyped: Fields,
}

impl Reader<'_> {
    fn draft(&mut self) -> Draft {
        let mut draft = Draft::default();
        let mut members = self.names.open(MessageObject::Envelope);
        let mut at = 0;
        while let Some((field, value)) = self.member(&mut members, at) {
            at = match field {
                Ok(Some(field)) => self.envelope_member(&mut draft, field, value),
                Ok(None) => self.tokens.behind(value),
                Err(error) => {
                    draft.id_is_doubtful |= matches!(error, ScanError::CaseVariant { member: "id", .. });
                    self.pass(error, value)
                }
            };
        }
        draft.id_is_doubtful |= members.doubled().has(Field::Id);
        draft.seen = members.seen();
        self.names.close(&members);
        draft
    }

    /// Reads the value of a member of the envelope; gives the mark behind it. So do those below.
    fn envelope_member(&mut self, draft: &mut Draft, field: Field, value: usize) -> usize {
        if field == Field::Params {
            return self.object(field, value, |reader| reader.params(&mut draft.params, value));
        }
        let behind = self.tokens.behind(value);
        match field {
            Field::Jsonrpc => draft.jsonrpc = self.text(field, value),
            Field::Id => draft.id = self.id(field, value),
            Field::Method => draft.method = self.text(field, value),
            Field::Error | Field::Result => {
                draft.outcome = Some(self.tokens.span(value, behind));
                if field == Field::Error && self.tokens.form(value) != Form::Object {
                    self.mistyped.add(field);
                }
            }
            _ => {}
        }
        behind
    }

    fn params(&mut self, params: &mut MessageParams, open: usize) -> usize {
        params.form = ParamsForm::Object;
        let mut members = self.names.open(MessageObject::Params);
        let mut at = open;
        while let Some((field, value)) = self.member(&mut members, at) {
            at = match field {
                Ok(Some(field)) => self.params_member(params, field, value),
                Ok(None) => self.tokens.behind(value),
                Err(error) => self.pass(error, value),
            };
        }
        self.names.close(&members);
        let behind = self.behind_brace(at);
        params.object = Some(self.tokens.span(open, behind));
        behind
    }

    fn params_member(&mut self, params: &mut MessageParams, field: Field, value: usize) -> usize {
        let is_null = self.tokens.form(value) == Form::Null;
        match field {
            Field::Meta if !is_null => {
                return self.object(field, value, |reader| reader.meta(&mut params.meta, value));
            }
            Field::Ref => return self.object(field, value, |reader| reader.reference(params, value)),
            _ => {}
        }
        let behind = self.tokens.behind(value);
        match field {
            Field::Name => params.name = self.text(field, value),
            Field::Uri => params.uri = self.text(field, value),
            Field::Cursor if !is_null => params.cursor = self.text(field, value),
            Field::TaskId => params.task_id = self.text(field, value),
            Field::Level => params.level = self.text(field, value),
            Field::ProtocolVersion => params.protocol_version = self.text(field, value),
            Field::RequestId => params.request_id = self.id(field, value),
            Field::ProgressToken => params.progress_token = self.id(field, value),
            Field::RequestState if !is_null => params.request_state = self.text(field, value),
            Field::InputResponses => params.has_input_responses = true,
            Field::Arguments => params.arguments = Some(self.tokens.span(value, behind)),
            _ => {}
        }
        behind
    }

    fn meta(&mut self, meta: &mut MessageMeta, open: usize) -> usize {
        meta.present = true;
        let mut members = self.names.open(MessageObject::Meta);
        let mut at = open;
        while let Some((field, value)) = self.member(&mut members, at) {
            at = match field {
                Ok(Some(field)) => self.meta_member(meta, field, value),
                Ok(None) => self.tokens.behind(value),
                Err(error) => self.pass(error, value),
            };
        }
        self.names.close(&members);
        let behind = self.behind_brace(at);
        meta.object = Some(self.tokens.span(open, behind));
        behind
    }

    fn meta_member(&mut self, meta: &mut MessageMeta, field: Field, value: usize) -> usize {
        let behind = self.tokens.behind(value);
        let form = self.tokens.form(value);
        match field {
            Field::MetaProtocolVersion => meta.protocol_version = self.text(field, value),
            Field::MetaClientCapabilities => {
                meta.client_capabilities = Some(self.tokens.span(value, behind));
                meta.client_capabilities_is_object = form == Form::Object;
            }
            Field::MetaProgressToken if form != Form::Null => meta.progress_token = self.id(field, value),
            Field::MetaSubscriptionId => meta.subscription_id = self.id(field, value),
            Field::MetaLogLevel if form != Form::Null => meta.log_level = self.text(field, value),
            _ => {}
        }
        behind
    }

    fn reference(&mut self, params: &mut MessageParams, open: usize) -> usize {
        let mut members = self.names.open(MessageObject::Ref);
        let mut at = open;
        while let Some((field, value)) = self.member(&mut members, at) {
            at = self.tokens.behind(value);
            match field {
                Ok(Some(field @ Field::RefName)) => params.ref_name = self.text(field, value),
                Ok(Some(field @ Field::RefUri)) => params.ref_uri = self.text(field, value),
                Ok(_) => {}
                Err(error) => self.refuse(error),
            }
        }
        self.names.close(&members);
        self.behind_brace(at)
    }

    /// Walks into an object, or around anything else that stands in its place.
    fn object(&mut self, field: Field, value: usize, walk: impl FnOnce(&mut Self) -> usize) -> usize {
        if self.tokens.form(value) == Form::Object {
            return walk(self);
        }
        self.mistyped.add(field);
        self.tokens.behind(value)
    }

    /// Remembers a fault and walks around the value that belongs to it.
    fn pass(&mut self, error: ScanError, value: usize) -> usize {
        self.refuse(error);
        self.tokens.behind(value)
    }

    /// The mark behind an object whose members are all read: `at` is its `}`, or its `{` if it is empty.
    fn behind_brace(&self, at: usize) -> usize {
        at + 1 + usize::from(self.tokens.byte(at) == b'{')
    }

    /// The next member of an object, whose `{` or last `,` is at `at`: its name and the mark of its value.
    fn member(
        &mut self,
        members: &mut Members,
        at: usize,
    ) -> Option<(Result<Option<Field>, ScanError>, usize)> {
        let name = at + 1;
        // Anything but a name: the object is empty, or `at` is its closing brace.
        if !matches!(self.tokens.byte(at), b'{' | b',') || self.tokens.byte(name) != b'"' {
            return None;
        }
        let text = self.tokens.text(name);
        Some((self.names.take(members, text, self.tokens.bytes), name + 2))
    }

    fn text(&mut self, field: Field, value: usize) -> Option<StringSpan> {
        if self.tokens.form(value) != Form::String {
            self.mistyped.add(field);
            return None;
        }
        let text = self.tokens.text(value);
        if text.escaped {
            let mut decoded = Vec::new();
            if unescape(text.inner(self.tokens.bytes), &mut decoded) == Err(LoneSurrogate) {
                self.refuse(ScanError::Surrogate { place: field.described().1 });
            }
        }
        Some(text)
    }

    fn id(&mut self, field: Field, value: usize) -> Option<IdSpan> {
        let span = self.tokens.span(value, value + 1);
        let form = match self.tokens.form(value) {
            Form::String => {
                self.text(field, value);
                IdForm::String
            }
            // An integer: a minus and digits, nothing else.
            Form::Number
                if span
                    .slice(self.tokens.bytes)
                    .iter()
                    .all(|&byte| byte == b'-' || byte.is_ascii_digit()) =>
            {
                IdForm::Number
            }
            Form::Null if field == Field::Id => IdForm::Null,
            _ => {
                self.mistyped.add(field);
                return None;
            }
        };
        Some(IdSpan { span, form })
    }

    fn refuse(&mut self, error: ScanError) {
        self.fault.get_or_insert(error);
    }

    /// Decides what the message is, and whether it may be that.
    fn judge(&self, draft: Draft) -> Result<Envelope, ScanError> {
        if let Some(fault) = self.fault {
            return Err(fault);
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
        let Draft { id, method, outcome, params, .. } = draft;
        Ok(Envelope { kind, id, method, outcome, params })
    }

    /// Refuses a member of the wrong type if the method routes by it.
    fn check_types(&self, method: Option<&StringSpan>) -> Result<(), ScanError> {
        if self.mistyped.0 == 0 {
            return Ok(());
        }
        let name = method.map(|method| method.decode(self.tokens.bytes)).unwrap_or_default();
        let wrong = self.mistyped.0 & (ALWAYS | routed_by(&name));
        let Some((field, expected)) = EXPECTED.iter().find(|(field, _)| wrong & field.bit() != 0) else {
            return Ok(());
        };
        let (member, place) = field.described();
        Err(ScanError::Type { member, place, expected })
    }
}

fn is_version_2(version: StringSpan, message: &[u8]) -> bool {
    version.span.slice(message) == br#""2.0""# || (version.escaped && version.decode(message) == "2.0")
}
