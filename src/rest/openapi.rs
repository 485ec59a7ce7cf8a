//! The OpenAPI document: made of the handlers and the domain's types, then opened for what may be added later.

use serde_json::{Map, Value, json};
use utoipa::{
    OpenApi,
    openapi::{InfoBuilder, LicenseBuilder, OpenApiBuilder},
};

use super::access;
use crate::domain::{Event, Needs};

/// Types of answers only: clients must live through values and variants that are added later.
const OPEN_ENUMS: [&str; 18] = [
    "AgentStatus",
    "CallKind",
    "Check",
    "FileChangeType",
    "FileEncoding",
    "FinishReason",
    "HealthStatus",
    "PermissionDecision",
    "PermissionMode",
    "PermissionResolver",
    "PermissionVerdict",
    "ProcessEnding",
    "ProcessKind",
    "ResyncReason",
    "Role",
    "TurnErrorCode",
    "TurnStatus",
    "VersionCause",
];
const OPEN_UNIONS: [&str; 2] = ["Part", "EventKind"];

const DESCRIPTION: &str = "\
A coding agent behind one port. `POST /messages` starts a turn and streams its events; `GET /events` follows everything.\n\n\
What this server sends is open: clients ignore fields and event types that they do not know, and take an unknown value \
of an enum as unspecified. What it takes is closed: unknown fields and parameters are refused by name.\n\n\
Errors are problem documents (`application/problem+json`). The same operations are served as gRPC and gRPC-Web on this \
port.\n\nA server that asks for tokens takes them as `Authorization: Bearer <token>`; `security` of each operation names the scope \
that the token has to have.";

/// Title and description; the routes are added by the router.
pub(super) fn info() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(components(schemas(Event)))]
    struct Schemas;
    let info = InfoBuilder::new()
        .title("OpenCode API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("MIT").identifier(Some("MIT")).build()));
    let schemas = Schemas::openapi().components;
    OpenApiBuilder::new().info(info.build()).components(schemas).build()
}

/// The document as JSON, indented, with a newline at its end.
pub(crate) fn document() -> String {
    let mut document = serde_json::to_value(super::documented().get_openapi()).unwrap_or_default();
    document["servers"] = json!([{ "url": "/", "description": "This server" }]);
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        // axum's way to write a wildcard is no template.
        *paths = std::mem::take(paths).into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    }
    document["components"]["securitySchemes"] = json!({ "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of OPENCODE_API_TOKEN or OPENCODE_API_TOKENS_FILE. Where the server asks for none, none is needed.",
    } });
    let operations = document.get_mut("paths").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut);
    operations.filter_map(Value::as_object_mut).flat_map(Map::values_mut).for_each(secure);
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        join_variants(schemas);
        join_descriptions(schemas);
        open(schemas);
    }
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

/// Says what an operation takes: the scopes of `security` are those that its token needs.
fn secure(operation: &mut Value) {
    let Some(verb) = operation.get("operationId").and_then(Value::as_str) else { return };
    operation["security"] = match access::of(verb) {
        Needs::Nothing => json!([]),
        Needs::Token => json!([{ "token": [] }]),
        Needs::Scope(scope) => json!([{ "token": [scope.as_str()] }]),
    };
}

/// A tagged variant comes as `allOf` of its type and its tag; it becomes one object. Generators read that better:
/// openapi-python-client leaves out such a union, and with it each operation that has one.
fn join_variants(schemas: &mut Map<String, Value>) {
    let types = schemas.clone();
    let unions = schemas.values_mut().filter_map(|schema| schema.get_mut("oneOf")).filter_map(Value::as_array_mut);
    for variant in unions.flatten() {
        let Some(halves) = variant.get("allOf").and_then(Value::as_array) else { continue };
        let (mut properties, mut required, mut closed) = (Map::new(), Vec::new(), false);
        for half in halves {
            let name = half.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            let half = name.and_then(|name| types.get(name)).unwrap_or(half);
            properties.extend(half.get("properties").and_then(Value::as_object).cloned().unwrap_or_default());
            closed |= half.get("additionalProperties") == Some(&json!(false));
            required.extend(half.get("required").and_then(Value::as_array).cloned().unwrap_or_default());
        }
        let mut joined = json!({ "type": "object", "properties": properties, "required": required });
        if let Some(description) = variant.get("description") {
            joined["description"] = description.clone();
        }
        if closed {
            joined["additionalProperties"] = json!(false);
        }
        *variant = joined;
    }
}

/// An inline enum with a description of its own comes as `allOf` of itself and an object of that description, which
/// nothing can be at once.
fn join_descriptions(schemas: &mut Map<String, Value>) {
    let properties = schemas.values_mut().filter_map(|schema| schema.get_mut("properties")?.as_object_mut());
    for property in properties.flat_map(|properties| properties.values_mut()) {
        let Some([own, beside]) = property.get("allOf").and_then(Value::as_array).map(Vec::as_slice) else { continue };
        if own.get("enum").is_some() && beside.get("properties").is_none() {
            let mut joined = own.clone();
            joined["description"] = beside["description"].clone();
            *property = joined;
        }
    }
}

fn open(schemas: &mut Map<String, Value>) {
    for name in OPEN_ENUMS {
        if let Some(schema) = schemas.get_mut(name) {
            open_enum(schema);
        }
    }
    for name in OPEN_UNIONS {
        if let Some(schema) = schemas.get_mut(name).and_then(Value::as_object_mut)
            && let Some(Value::Array(mut variants)) = schema.remove("oneOf")
        {
            variants.push(json!({
                "type": "object",
                "description": "A type that is added later; clients ignore it.",
                "required": ["type"],
                "properties": { "type": { "type": "string" } }
            }));
            schema.insert("anyOf".into(), Value::Array(variants));
        }
    }
}

/// The known values move from `enum`, which is closed, to the description and to an extension.
fn open_enum(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    let mut known: Vec<Value> = Vec::new();
    if let Some(Value::Array(values)) = schema.remove("enum") {
        known = values;
    } else if let Some(Value::Array(variants)) = schema.remove("oneOf") {
        for variant in variants {
            known.extend(variant.get("enum").and_then(Value::as_array).into_iter().flatten().cloned());
        }
    }
    schema.insert("type".into(), json!("string"));
    schema.insert("x-extensible-enum".into(), Value::Array(known));
}
