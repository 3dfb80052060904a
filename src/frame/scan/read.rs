//! The walk over the marks of one message.

use crate::frame::fault::{Place, Refused, ScanError};
use crate::frame::members::{Field, Fields, Members, Names};
use crate::frame::scan::types::{ALWAYS, EXPECTED, routed_by};
use crate::frame::scan::{BATCH_ITEMS_MAX, Envelope, Kind, Meta, Params, ParamsForm};
use crate::frame::span::{Id, IdForm, LoneSurrogate, Span, Text, unescape};
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
pub(super) fn envelope(tokens: Tokens<'_>, names: &mut Names) -> Result<Envelope, Refused> {
    match tokens.form(0) {
        Form::Object => {}
        Form::Array => return Err(Refused { error: ScanError::Batch, id: None }),
        _ => return Err(Refused { error: ScanError::NotObject, id: None }),
    }
    let mut reader = Reader { tokens, names, fault: None, mistyped: Fields::default() };
    let draft = reader.draft();
    let id_is_certain = !draft.id_is_doubtful;
    let id = draft.id.filter(|id| id_is_certain && id.form != IdForm::Null);
    reader.judge(draft).map_err(|error| Refused { error, id })
}

/// Envelope members as found, before they are judged together.
#[derive(Default)]
struct Draft {
    seen: Fields,
    jsonrpc: Option<Text>,
    id: Option<Id>,
    /// Whether readers may disagree on the id: then we answer with none.
    id_is_doubtful: bool,
    method: Option<Text>,
    outcome: Option<Span>,
    params: Params,
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
        let mut members = self.names.open(Place::Envelope);
        let mut at = 0;
        while let Some((field, value)) = self.member(&mut members, at) {
            at = self.tokens.behind(value);
            match field {
                Ok(Some(Field::Jsonrpc)) => draft.jsonrpc = self.text(Field::Jsonrpc, value),
                Ok(Some(Field::Id)) => draft.id = self.id(Field::Id, value),
                Ok(Some(Field::Method)) => draft.method = self.text(Field::Method, value),
                Ok(Some(Field::Params)) => draft.params = self.params(value, at),
                Ok(Some(Field::Error)) => {
                    draft.outcome = self.object(Field::Error, value, at);
                }
                Ok(Some(Field::Result)) => draft.outcome = Some(self.tokens.span(value, at)),
                Ok(_) => {}
                Err(error) => {
                    draft.id_is_doubtful |= matches!(error, ScanError::CaseVariant { member: "id", .. });
                    self.refuse(error);
                }
            }
        }
        draft.id_is_doubtful |= members.doubled().has(Field::Id);
        draft.seen = members.seen();
        self.names.close(&members);
        draft
    }

    fn params(&mut self, open: usize, behind: usize) -> Params {
        let object = self.object(Field::Params, open, behind);
        let mut params = Params { object, ..Params::default() };
        if object.is_none() {
            return params;
        }
        params.form = ParamsForm::Object;
        let mut members = self.names.open(Place::Params);
        let mut at = open;
        while let Some((field, value)) = self.member(&mut members, at) {
            at = self.tokens.behind(value);
            match field {
                Ok(Some(field)) => self.params_member(&mut params, field, value, at),
                Ok(None) => {}
                Err(error) => self.refuse(error),
            }
        }
        self.names.close(&members);
        params
    }

    fn params_member(&mut self, params: &mut Params, field: Field, value: usize, behind: usize) {
        match field {
            Field::Name => params.name = self.text(field, value),
            Field::Uri => params.uri = self.text(field, value),
            Field::Cursor => params.cursor = self.optional(value, |r| r.text(field, value)),
            Field::TaskId => params.task_id = self.text(field, value),
            Field::Level => params.level = self.text(field, value),
            Field::ProtocolVersion => params.protocol_version = self.text(field, value),
            Field::RequestId => params.request_id = self.id(field, value),
            Field::ProgressToken => params.progress_token = self.id(field, value),
            Field::RequestState => params.request_state = self.optional(value, |r| r.text(field, value)),
            Field::InputResponses => params.has_input_responses = true,
            Field::Arguments => params.arguments = Some(self.tokens.span(value, behind)),
            Field::Ref => self.reference(params, value, behind),
            Field::Meta => {
                if let Some(meta) = self.optional(value, |r| r.meta(value, behind)) {
                    params.meta = meta;
                }
            }
            _ => {}
        }
    }

    fn meta(&mut self, open: usize, behind: usize) -> Option<Meta> {
        let object = self.object(Field::Meta, open, behind)?;
        let mut meta = Meta { present: true, object: Some(object), ..Meta::default() };
        let mut members = self.names.open(Place::Meta);
        let mut at = open;
        while let Some((field, value)) = self.member(&mut members, at) {
            at = self.tokens.behind(value);
            match field {
                Ok(Some(field @ Field::MetaProtocolVersion)) => {
                    meta.protocol_version = self.text(field, value);
                }
                Ok(Some(Field::MetaClientCapabilities)) => {
                    meta.client_capabilities = Some(self.tokens.span(value, at));
                    meta.client_capabilities_is_object = self.tokens.form(value) == Form::Object;
                }
                Ok(Some(field @ Field::MetaProgressToken)) => {
                    meta.progress_token = self.optional(value, |r| r.id(field, value));
                }
                Ok(Some(field @ Field::MetaSubscriptionId)) => meta.subscription_id = self.id(field, value),
                Ok(Some(field @ Field::MetaLogLevel)) => {
                    meta.log_level = self.optional(value, |r| r.text(field, value));
                }
                Ok(_) => {}
                Err(error) => self.refuse(error),
            }
        }
        self.names.close(&members);
        Some(meta)
    }

    fn reference(&mut self, params: &mut Params, open: usize, behind: usize) {
        if self.object(Field::Ref, open, behind).is_none() {
            return;
        }
        let mut members = self.names.open(Place::Ref);
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
        let text = Text::new(self.tokens.span(name, name + 1), self.tokens.bytes);
        Some((self.names.take(members, text, self.tokens.bytes), name + 2))
    }

    /// Reads a member for which `null` says the same as leaving it out.
    fn optional<T>(&mut self, value: usize, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.tokens.form(value) == Form::Null { None } else { read(self) }
    }

    fn text(&mut self, field: Field, value: usize) -> Option<Text> {
        if self.tokens.form(value) != Form::String {
            self.mistyped.add(field);
            return None;
        }
        let text = Text::new(self.tokens.span(value, value + 1), self.tokens.bytes);
        if text.escaped {
            let mut decoded = Vec::new();
            if unescape(text.inner(self.tokens.bytes), &mut decoded) == Err(LoneSurrogate) {
                self.refuse(ScanError::Surrogate { place: field.described().1 });
            }
        }
        Some(text)
    }

    fn id(&mut self, field: Field, value: usize) -> Option<Id> {
        let span = self.tokens.span(value, value + 1);
        let form = match self.tokens.form(value) {
            Form::String => {
                self.text(field, value);
                IdForm::String
            }
            // An integer: a minus and digits, nothing else.
            Form::Number
                if span.of(self.tokens.bytes).iter().all(|&byte| byte == b'-' || byte.is_ascii_digit()) =>
            {
                IdForm::Number
            }
            Form::Null if field == Field::Id => IdForm::Null,
            _ => {
                self.mistyped.add(field);
                return None;
            }
        };
        Some(Id { span, form })
    }

    fn object(&mut self, field: Field, open: usize, behind: usize) -> Option<Span> {
        if self.tokens.form(open) != Form::Object {
            self.mistyped.add(field);
            return None;
        }
        Some(self.tokens.span(open, behind))
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
        if draft.jsonrpc.is_none_or(|version| version.decode(bytes) != "2.0") {
            return Err(ScanError::Version);
        }
        let has = |field| draft.seen.has(field);
        let kind = match (has(Field::Method), has(Field::Result), has(Field::Error)) {
            (true, false, false) if has(Field::Id) => Kind::Request,
            (true, false, false) => Kind::Notification,
            (false, true, false) if !has(Field::Params) => Kind::Response,
            (false, false, true) if !has(Field::Params) => Kind::Error,
            _ => return Err(ScanError::Shape),
        };
        self.check_types(draft.method.as_ref())?;
        match (kind, draft.id.map(|id| id.form)) {
            (Kind::Request | Kind::Response, Some(IdForm::Null)) => return Err(ScanError::NullId),
            (Kind::Response, None) => return Err(ScanError::NoId),
            _ => {}
        }
        let Draft { id, method, outcome, params, .. } = draft;
        Ok(Envelope { kind, id, method, outcome, params })
    }

    /// Refuses a member of the wrong type if the method routes by it.
    fn check_types(&self, method: Option<&Text>) -> Result<(), ScanError> {
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
