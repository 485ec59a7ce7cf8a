//! The OpenAPI document: the one in the repository is the one that the code makes, and it keeps what the contract says
//! of every document of ours.

use serde_json::{Map, Value};

/// What takes one of these in a schema that answers refer to would break when a value is added.
const CLOSED: [&str; 2] = ["enum", "const"];

fn document() -> Value {
    serde_json::from_str(&opencode_api::openapi()).expect("the document is JSON")
}

/// Every operation: `GET /health` and its object.
fn operations(document: &Value) -> Vec<(String, &Map<String, Value>)> {
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().expect("a path item");
        item.iter().filter_map(move |(method, operation)| {
            Some((format!("{} {path}", method.to_uppercase()), operation.as_object()?))
        })
    });
    operations.collect()
}

#[test]
fn the_file_is_what_the_code_makes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let file = std::fs::read_to_string(path).unwrap_or_default();
    let same = file == opencode_api::openapi();
    assert!(same, "openapi/openapi.json is not of this code: `cargo run -- openapi > openapi/openapi.json`");
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut lost = Vec::new();
    walk(&document, &mut |object, _| {
        if let Some(Value::String(reference)) = object.get("$ref")
            && document.pointer(reference.trim_start_matches('#')).is_none()
        {
            lost.push(reference.clone());
        }
    });
    assert!(
        lost.is_empty(),
        "nothing is at {lost:?}: name the type in `components(schemas(...))` of src/rest/openapi.rs"
    );
}

#[test]
fn every_operation_answers_errors_as_problems() {
    let document = document();
    for (name, operation) in operations(&document) {
        let answers = operation["responses"].as_object().expect("responses");
        let error = answers.iter().find(|(status, _)| status.starts_with('4') || *status == "default");
        let (_, answer) = error.unwrap_or_else(|| panic!("{name} promises no error: give it a `default` response"));
        let schema = &answer["content"]["application/problem+json"]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/Problem", "{name}: an error is a `Problem`, as problem+json");
    }
}

#[test]
fn every_operation_is_named_and_told() {
    let document = document();
    let mut seen = Vec::new();
    for (name, operation) in operations(&document) {
        let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default();
        assert!(!id.is_empty(), "{name} has no operationId: the handler's name is one");
        assert!(!seen.contains(&id), "{name}: the operationId {id} is there twice");
        seen.push(id);
        let summary = operation.get("summary").and_then(Value::as_str).unwrap_or_default();
        assert!(!summary.is_empty(), "{name} says nothing of itself: the handler's doc comment does");
    }
}

#[test]
fn paths_are_templates_of_openapi() {
    let document = document();
    for (name, _) in operations(&document) {
        assert!(!name.contains("{*"), "{name}: a wildcard of axum is no template; take its star away in the document");
    }
}

/// Clients live through values that are added later: no schema that an answer leads to closes a set of strings. (What
/// tells the variants of a union apart, `type`, is one value by its nature.)
#[test]
fn what_is_sent_is_open() {
    let document = document();
    let mut closed = Vec::new();
    for (name, operation) in operations(&document) {
        for (status, answer) in operation["responses"].as_object().expect("responses") {
            reach(&document, answer, &mut Vec::new(), &mut |object, key| {
                let is_tag = key == "type";
                if !is_tag && CLOSED.iter().any(|keyword| object.contains_key(*keyword)) {
                    closed.push(format!("{name} {status}: {key}: {}", Value::Object(object.clone())));
                }
                let union = object.get("oneOf").and_then(Value::as_array);
                let is_nullable = |variants: &Vec<Value>| variants.iter().any(|variant| variant["type"] == "null");
                if union.is_some_and(|variants| !is_nullable(variants)) {
                    closed.push(format!("{name} {status}: {key}: a oneOf"));
                }
            });
        }
    }
    closed.sort();
    closed.dedup();
    let what = "answers are open: put the type into OPEN_ENUMS or OPEN_UNIONS of src/rest/openapi.rs";
    assert!(closed.is_empty(), "{what}:\n  {}", closed.join("\n  "));
}

/// The other way round, a request says which values it takes, and that it takes no others.
#[test]
fn what_is_taken_is_closed() {
    let document = document();
    let mut open = Vec::new();
    for (name, operation) in operations(&document) {
        let parameters = operation.get("parameters").into_iter().chain(operation.get("requestBody"));
        for taken in parameters {
            reach(&document, taken, &mut Vec::new(), &mut |object, key| {
                if let Some(values) = object.get("x-extensible-enum") {
                    open.push(format!("{name}: {}{key} of {values}", taken["name"].as_str().unwrap_or_default()));
                }
            });
        }
    }
    let what = "requests are closed: give the parameter a schema of its own, not the open one of answers";
    assert!(open.is_empty(), "{what}:\n  {}", open.join("\n  "));
}

/// Calls `visit` with every object and the key that it is under.
fn walk<'a>(value: &'a Value, visit: &mut dyn FnMut(&'a Map<String, Value>, &'a str)) {
    walk_under(value, "", visit);
}

fn walk_under<'a>(value: &'a Value, key: &'a str, visit: &mut dyn FnMut(&'a Map<String, Value>, &'a str)) {
    match value {
        Value::Object(object) => {
            visit(object, key);
            object.iter().for_each(|(key, value)| walk_under(value, key, visit));
        }
        Value::Array(values) => values.iter().for_each(|value| walk_under(value, key, visit)),
        _ => {}
    }
}

/// The same, through references; each is followed once.
fn reach<'a>(
    document: &'a Value,
    value: &'a Value,
    seen: &mut Vec<&'a str>,
    visit: &mut dyn FnMut(&'a Map<String, Value>, &'a str),
) {
    let mut found = Vec::new();
    walk(value, &mut |object, key| {
        visit(object, key);
        found.extend(object.get("$ref").and_then(Value::as_str));
    });
    for reference in found {
        if !seen.contains(&reference) {
            seen.push(reference);
            let target = document.pointer(reference.trim_start_matches('#'));
            target.into_iter().for_each(|target| reach(document, target, seen, visit));
        }
    }
}
