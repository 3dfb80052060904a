//! The types of members, and the methods for which they matter.

use crate::frame::members::Field;

/// Members whose type matters in every message.
pub(super) const ALWAYS: u32 = Field::Jsonrpc.bit()
    | Field::Id.bit()
    | Field::Method.bit()
    | Field::Params.bit()
    | Field::Error.bit()
    | Field::Meta.bit()
    | Field::MetaProtocolVersion.bit()
    | Field::MetaProgressToken.bit()
    | Field::MetaSubscriptionId.bit()
    | Field::MetaLogLevel.bit();

/// The members of params that a method is routed by.
pub(super) fn routed_by(method: &str) -> u32 {
    match method {
        "tools/call" | "prompts/get" => Field::Name.bit() | Field::RequestState.bit(),
        "resources/read" => Field::Uri.bit() | Field::RequestState.bit(),
        "resources/subscribe" | "resources/unsubscribe" | "notifications/resources/updated" => {
            Field::Uri.bit()
        }
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" | "tasks/list" => {
            Field::Cursor.bit()
        }
        "completion/complete" => Field::Ref.bit() | Field::RefName.bit() | Field::RefUri.bit(),
        "initialize" => Field::ProtocolVersion.bit(),
        "logging/setLevel" => Field::Level.bit(),
        "notifications/cancelled" => Field::RequestId.bit(),
        "notifications/progress" => Field::ProgressToken.bit(),
        _ if method.starts_with("tasks/") => Field::TaskId.bit(),
        _ => 0,
    }
}

const STRING: &str = "a string";
const STRING_OR_INTEGER: &str = "a string or an integer";
const OBJECT: &str = "an object";

/// The expected types. The first mismatch in this order is reported.
pub(super) const EXPECTED: [(Field, &str); 22] = [
    (Field::Jsonrpc, STRING),
    (Field::Id, STRING_OR_INTEGER),
    (Field::Method, STRING),
    (Field::Params, OBJECT),
    (Field::Error, OBJECT),
    (Field::Name, STRING),
    (Field::Uri, STRING),
    (Field::Cursor, STRING),
    (Field::TaskId, STRING),
    (Field::Level, STRING),
    (Field::ProtocolVersion, STRING),
    (Field::RequestId, STRING_OR_INTEGER),
    (Field::ProgressToken, STRING_OR_INTEGER),
    (Field::Ref, OBJECT),
    (Field::RefName, STRING),
    (Field::RefUri, STRING),
    (Field::RequestState, STRING),
    (Field::Meta, OBJECT),
    (Field::MetaProtocolVersion, STRING),
    (Field::MetaProgressToken, STRING_OR_INTEGER),
    (Field::MetaSubscriptionId, STRING_OR_INTEGER),
    (Field::MetaLogLevel, STRING),
];
