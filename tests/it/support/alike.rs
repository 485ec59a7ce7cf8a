//! What the second door says, in the words of the first: so that one assertion holds for both.

use serde_json::{Map, Value, json};

/// Texts that the first door leaves out where there are none.
const OPTIONAL: [&str; 26] = [
    "parent_session_id",
    "summary_message_id",
    "kept_from_message_id",
    "turn_id",
    "token_id",
    "model",
    "current_model",
    "current_operation",
    "next_cursor",
    "unavailable_reason",
    "path",
    "metadata",
    "details",
    "previous",
    "base64_data",
    "cursor",
    "finish_reason",
    "etag",
    "mime_type",
    "old_path",
    "old_content",
    "diff",
    "grant",
    "reason",
    "permission_id",
    "message_id",
];

/// Texts that hold JSON.
const JSON: [&str; 3] = ["input", "metadata", "details"];

/// Endings of the names of times.
const TIMES: [&str; 6] = ["_at", "at", "time", "timestamp", "last_activity", "deadline"];

/// Prefixes of enum values.
const ENUMS: [&str; 15] = [
    "CALL_KIND_",
    "MESSAGE_ROLE_",
    "FINISH_REASON_",
    "HEALTH_STATUS_",
    "AGENT_STATUS_",
    "TURN_STATUS_",
    "RESYNC_REASON_",
    "PROCESS_ENDING_",
    "PROCESS_KIND_",
    "PERMISSION_MODE_",
    "PERMISSION_VERDICT_",
    "PERMISSION_RESOLVER_",
    "PERMISSION_DECISION_",
    "FILE_CHANGE_TYPE_",
    "VERSION_CAUSE_",
];

/// A message of the second door as the first would have it.
pub fn alike(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(alike).collect(),
        Value::Object(fields) => object(fields),
        Value::String(text) => match ENUMS.iter().find_map(|prefix| text.strip_prefix(prefix)) {
            Some("UNSPECIFIED") => Value::Null,
            Some(value) => value.to_lowercase().into(),
            None => text.into(),
        },
        other => other,
    }
}

fn object(fields: Map<String, Value>) -> Value {
    let mut found = Map::new();
    for (name, value) in fields {
        let value = match value {
            Value::String(text) if text.is_empty() && OPTIONAL.contains(&name.as_str()) => continue,
            Value::String(text) if JSON.contains(&name.as_str()) => {
                serde_json::from_str(&text).expect("JSON in a text")
            }
            // The same moment, with as many digits as the first door writes.
            Value::String(text) if TIMES.iter().any(|end| name.ends_with(end)) => {
                let at: jiff::Timestamp = text.parse().expect("a time");
                at.to_string().into()
            }
            Value::Bool(false) if name == "truncated" => continue,
            Value::Number(number) if name == "processes_unnamed" && number.as_u64() == Some(0) => continue,
            Value::Null => continue,
            value => alike(value),
        };
        if !value.is_null() {
            found.insert(name, value);
        }
    }
    // A size is told of what is cut, and always of a file.
    let is_file = found.contains_key("mime_type") || found.contains_key("is_directory");
    if found.get("size") == Some(&json!(0)) && !is_file {
        found.remove("size");
    }
    part(found)
}

/// A part or an event: what is a union here is tagged there.
fn part(mut fields: Map<String, Value>) -> Value {
    const PARTS: [&str; 6] = ["text", "binary", "tool_call", "tool_result", "finish", "reasoning"];
    if fields.len() == 1
        && let Some((kind, Value::Object(inner))) = fields.iter().next()
        && PARTS.contains(&kind.as_str())
    {
        let mut part = inner.clone();
        if kind == "binary"
            && let Some(data) = part.remove("data").filter(|data| data != "")
        {
            part.insert("base64_data".into(), data);
        }
        part.insert("type".into(), kind.clone().into());
        return Value::Object(part);
    }
    if fields.contains_key("seq") && (fields.contains_key("at") || fields.contains_key("cursor")) {
        let member = fields.iter().find(|(name, value)| value.is_object() && name.as_str() != "turn");
        if let Some((kind, Value::Object(inner))) = member.map(|(name, value)| (name.clone(), value.clone())) {
            if kind == "other" {
                return Value::Object(inner);
            }
            fields.remove(&kind);
            fields.extend(inner);
            // The published message repeats the event's time.
            if let (Some(at), Some(timestamp)) = (fields.get("at"), fields.get("timestamp")) {
                assert_eq!(at, timestamp);
                fields.remove("timestamp");
            }
            fields.insert("type".into(), kind.into());
        }
    }
    Value::Object(fields)
}
