//! Bad requests through the first door: each has its status, its code and the name of what is wrong, and changes nothing.

use serde_json::{Value, json};

use crate::support::{Answer, Dialect, Model, Rest, Server, Setup, model::text};

async fn ready() -> (Model, Server) {
    let model = Model::start(Dialect::Anthropic, []).await;
    let server = Setup::with(&model).start();
    (model, server)
}

/// The name of the one field that an error blames; empty if none.
#[track_caller]
fn field(problem: &Value) -> &str {
    let errors = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(errors.len() <= 1, "{problem}");
    errors.first().map_or("", |bad| {
        assert!(bad["message"].as_str().is_some_and(|message| !message.is_empty()), "{problem}");
        bad["field"].as_str().expect("a name")
    })
}

/// Sends a body as it stands.
async fn raw(rest: &Rest, method: &str, path: &str, kind: Option<&str>, body: impl Into<Vec<u8>>) -> Answer {
    let mut request = rest.request(method, path).body(body.into());
    if let Some(kind) = kind {
        request = request.header("content-type", kind);
    }
    Answer::of(request).await
}

/// Nothing was begun, stored or told.
async fn untouched(model: &Model, server: &Server) {
    assert!(server.rest.log().await.is_empty(), "something was stored");
    assert!(model.journal().is_empty(), "the model was asked");
}

#[tokio::test]
async fn bodies_that_are_refused() {
    let (model, server) = ready().await;
    let words = json!({"type": "text", "text": "Look."});
    let part = |part: Value| json!({"parts": [words, part]}).to_string();
    let file = |file: Value| json!({"parts": [words], "attachments": [file]}).to_string();
    let say = |name: &str, value: Value| json!({"text": "Hello.", name: value}).to_string();
    let cases: Vec<(&str, &str, String, &str)> = vec![
        // What is no JSON, or more than one.
        ("POST", "/messages", "".into(), ""),
        ("POST", "/messages", "{".into(), ""),
        ("POST", "/messages", "{\"text\": \"Hello.\"".into(), ""),
        ("POST", "/messages", "{\"text\": \"Hello.\"} {}".into(), ""),
        ("POST", "/messages", "{\"text\": \"\u{1}\"}".into(), "text"),
        ("POST", "/messages", "Hello.".into(), ""),
        ("POST", "/messages", "null".into(), ""),
        ("POST", "/messages", "[]".into(), ""),
        ("POST", "/messages", "\"Hello.\"".into(), ""),
        // A list of the fields' values is no object.
        ("POST", "/messages", json!([[], [], "Hello.", null]).to_string(), ""),
        ("POST", "/messages", say("budget", json!([20, 300, 200_000, "0.50"])), ""),
        ("POST", "/session/reset", json!(["A title"]).to_string(), ""),
        ("PUT", "/agent/model", json!(["mock/demo"]).to_string(), ""),
        ("POST", "/messages", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), ""),
        ("POST", "/messages", "{\"text\": \"a\", \"text\": \"b\"}".into(), "text"),
        // Wrong types.
        ("POST", "/messages", json!({"text": 5}).to_string(), "text"),
        ("POST", "/messages", json!({"parts": "Hello."}).to_string(), "parts"),
        ("POST", "/messages", json!({"parts": {}}).to_string(), "parts"),
        ("POST", "/messages", json!({"parts": ["Hello."]}).to_string(), "parts[0]"),
        ("POST", "/messages", part(json!({"text": "Hello."})), "parts[1].type"),
        ("POST", "/messages", part(json!({"type": "text"})), "parts[1].text"),
        ("POST", "/messages", part(json!({"type": "text", "text": null})), "parts[1]"),
        (
            "POST",
            "/messages",
            part(json!({"type": "tool_call", "id": "1", "name": "ls", "input": {}})),
            "parts[1].type",
        ),
        ("POST", "/messages", say("model", json!(7)), "model"),
        ("POST", "/messages", say("attachments", json!([{}])), "attachments[0].path"),
        ("POST", "/messages", file(json!({"path": "a", "content": "b", "size": "1"})), "attachments[0].size"),
        ("POST", "/messages", file(json!({"path": "a", "content": "b", "size": 1.5})), "attachments[0].size"),
        // Nothing said.
        ("POST", "/messages", "{}".into(), "parts"),
        ("POST", "/messages", json!({"parts": []}).to_string(), "parts"),
        ("POST", "/messages", json!({"attachments": [{"path": "README.md"}]}).to_string(), "parts"),
        ("POST", "/messages", json!({"text": ""}).to_string(), "text"),
        ("POST", "/messages", part(json!({"type": "text", "text": ""})), "parts[1].text"),
        ("POST", "/messages", say("parts", json!([words])), "text"),
        // Files.
        ("POST", "/messages", part(json!({"type": "binary"})), "parts[1]"),
        ("POST", "/messages", part(json!({"type": "binary", "path": "README.md", "base64_data": "eA=="})), "parts[1]"),
        ("POST", "/messages", part(json!({"type": "binary", "data": "eA=="})), "parts[1].data"),
        ("POST", "/messages", part(json!({"type": "binary", "base64_data": ""})), "parts[1]"),
        ("POST", "/messages", part(json!({"type": "binary", "base64_data": "no base64"})), "parts[1].base64_data"),
        ("POST", "/messages", part(json!({"type": "binary", "base64_data": "eA"})), "parts[1].base64_data"),
        (
            "POST",
            "/messages",
            part(json!({"type": "binary", "base64_data": "eA==", "mime_type": "a\r\nb/c"})),
            "parts[1].mime_type",
        ),
        ("POST", "/messages", part(json!({"type": "binary", "path": ""})), "parts[1].path"),
        ("POST", "/messages", part(json!({"type": "binary", "path": "a//b"})), "parts[1].path"),
        ("POST", "/messages", file(json!({"path": "a//b"})), "attachments[0].path"),
        ("POST", "/messages", file(json!({"path": "", "content": "x"})), "attachments[0].path"),
        ("POST", "/messages", file(json!({"path": "x.png", "content": "no base64"})), "attachments[0].content"),
        ("POST", "/messages", file(json!({"path": "x", "content": "x", "mime_type": "x"})), "attachments[0].mime_type"),
        ("POST", "/messages", file(json!({"path": "x", "content": "four", "size": -4})), "attachments[0].size"),
        // Unknown at any depth, and what is for later.
        ("POST", "/messages", say("colour", json!("red")), "colour"),
        ("POST", "/messages", part(json!({"type": "text", "text": "a", "colour": 1})), "parts[1].colour"),
        ("POST", "/messages", part(json!({"type": "binary", "path": "a", "size": 1})), "parts[1].size"),
        ("POST", "/messages", file(json!({"path": "a", "colour": 1})), "attachments[0].colour"),
        ("POST", "/messages", say("permission_mode", json!("sometimes")), "permission_mode"),
        ("POST", "/messages", say("when_busy", json!("later")), "when_busy"),
        ("POST", "/messages", say("turn_id", json!("turn_1")), "turn_id"),
        ("POST", "/messages", say("budget", json!({"cost": 1})), "budget.cost"),
        ("POST", "/messages", say("cancel_on_disconnect", json!("yes")), "cancel_on_disconnect"),
        ("POST", "/messages", say("idempotency_key", json!("a")), "idempotency_key"),
        ("PATCH", "/session", "{}".into(), "title"),
        ("PATCH", "/session", json!({"title": 1}).to_string(), "title"),
        ("PATCH", "/session", json!({"title": "x".repeat(100_000)}).to_string(), "title"),
        ("PATCH", "/session", json!({"title": "a", "permission_mode": "sometimes"}).to_string(), "permission_mode"),
        ("POST", "/session/reset", json!({"name": "a"}).to_string(), "name"),
        ("POST", "/session/reset", "[".into(), ""),
        ("PUT", "/agent/model", "".into(), ""),
        ("PUT", "/agent/model", "{}".into(), "model_id"),
        ("PUT", "/agent/model", json!({"model_id": ""}).to_string(), "model_id"),
        ("PUT", "/agent/model", json!({"model_id": "mock/demo", "model": "a"}).to_string(), "model"),
        ("POST", "/agent/cancel", json!({"turn_id": 1}).to_string(), "turn_id"),
        ("POST", "/agent/cancel", json!({"turn": "a"}).to_string(), "turn"),
    ];
    let mut wrong = Vec::new();
    for (method, path, body, name) in cases {
        let answer = raw(&server.rest, method, path, Some("application/json"), body.clone()).await;
        let problem = answer.problem(400, "invalid_argument");
        if field(&problem) != name {
            wrong.push(format!("{name:?}: {method} {path} {body:.200} {problem}"));
        }
        assert_eq!(problem["retryable"], false);
        assert!(name.is_empty() || problem["detail"].as_str().is_some_and(|detail| detail.contains(name)), "{problem}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (body, status, code) in [
        (part(json!({"type": "binary", "path": "../secret"})), 403, "permission_denied"),
        (part(json!({"type": "binary", "path": "/etc/passwd"})), 403, "permission_denied"),
        (file(json!({"path": "a/../../secret"})), 403, "permission_denied"),
        (file(json!({"path": "missing.txt"})), 404, "not_found"),
        (file(json!({"path": ".git"})), 400, "invalid_argument"),
        (json!({"text": "x".repeat(1024 * 1024)}).to_string(), 413, "too_large"),
        (json!({"parts": vec![words.clone(); 101]}).to_string(), 413, "too_large"),
        (
            json!({"parts": vec![words.clone(); 50], "attachments": vec![json!({"path": "README.md"}); 51]})
                .to_string(),
            413,
            "too_large",
        ),
    ] {
        let answer = raw(&server.rest, "POST", "/messages", Some("application/json"), body.clone()).await;
        assert_eq!(answer.status, status, "{body:.200}");
        answer.problem(status, code);
    }
    // Through a link that leads out, too.
    std::os::unix::fs::symlink("/etc/passwd", server.workspace().join("passwd")).expect("a link");
    let link = json!({"parts": [{"type": "binary", "path": "passwd"}]});
    server.rest.post("/messages", &link).await.problem(403, "permission_denied");
    untouched(&model, &server).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let model = Model::start(Dialect::Anthropic, [vec![text("Yes.")]]).await;
    let server = Setup::with(&model).env("OPENCODE_MAX_BODY_BYTES", 1000).start();
    let body = |size: usize| format!("{:<size$}", json!({"text": "Hello."}).to_string());
    let over = raw(&server.rest, "POST", "/messages", Some("application/json"), body(1001)).await;
    let problem = over.problem(413, "too_large");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("OPENCODE_MAX_BODY_BYTES")), "{problem}");
    // Without a length in its head.
    let chunks = futures_util::stream::iter((0..30).map(|_| Ok::<_, std::io::Error>(" ".repeat(100))));
    let request = server.rest.request("POST", "/messages").header("content-type", "application/json");
    Answer::of(request.body(reqwest::Body::wrap_stream(chunks))).await.problem(413, "too_large");
    for (method, path) in [("PATCH", "/session"), ("POST", "/session/reset"), ("PUT", "/agent/model")] {
        raw(&server.rest, method, path, Some("application/json"), body(1001)).await.problem(413, "too_large");
    }
    untouched(&model, &server).await;
    let exact = raw(&server.rest, "POST", "/messages", Some("application/json"), body(1000)).await;
    assert_eq!(exact.status, 200, "{}", exact.text());
}

/// Every operation: its method and path with ids of nobody.
const OPERATIONS: [(&str, &str); 39] = [
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/session"),
    ("PATCH", "/session"),
    ("POST", "/session/reset"),
    ("GET", "/capabilities"),
    ("POST", "/tickets"),
    ("GET", "/session/stats"),
    ("GET", "/session/ledger"),
    ("POST", "/messages"),
    ("GET", "/messages"),
    ("DELETE", "/messages"),
    ("GET", "/messages/stream"),
    ("GET", "/messages/msg_nobody"),
    ("GET", "/messages/msg_nobody/parts/0"),
    ("GET", "/turns"),
    ("GET", "/turns/turn_nobody"),
    ("GET", "/events"),
    ("POST", "/agent/cancel"),
    ("GET", "/agent/status"),
    ("PUT", "/agent/model"),
    ("GET", "/agent/permissions"),
    ("POST", "/agent/permissions/evaluate"),
    ("POST", "/agent/permissions/perm_nobody"),
    ("GET", "/agent/processes"),
    ("DELETE", "/agent/processes/proc_nobody"),
    ("GET", "/models"),
    ("GET", "/files/changes"),
    ("GET", "/files/versions"),
    ("POST", "/files/revert"),
    ("GET", "/files"),
    ("GET", "/files/nothing"),
    ("PUT", "/files/nothing"),
    ("DELETE", "/files/nothing"),
    ("GET", "/raw/nothing"),
    ("PUT", "/raw/nothing"),
    ("DELETE", "/raw/nothing"),
];

#[tokio::test]
async fn queries_that_are_refused() {
    let (model, server) = ready().await;
    let document: Value = serde_json::from_str(&opencode_api::openapi()).expect("JSON");
    let served = document["paths"].as_object().expect("paths").values();
    // What HEAD answers has no body to look at.
    let served =
        served.map(|methods| methods.as_object().expect("methods").keys().filter(|name| *name != "head").count());
    assert_eq!(served.sum::<usize>(), OPERATIONS.len(), "an operation is not in this table");
    for (method, path) in OPERATIONS {
        let answer = raw(&server.rest, method, &format!("{path}?colour=red"), None, "").await;
        assert_eq!(field(&answer.problem(400, "invalid_argument")), "colour", "{method} {path}");
    }
    let mut cases: Vec<(String, &str)> = Vec::new();
    for list in ["/messages", "/turns", "/session/ledger"] {
        for value in
            ["-1", "201", "2147483647", "-2147483648", "9223372036854775807", "99999999999999999999", "1.5", "x", ""]
        {
            cases.push((format!("{list}?limit={value}"), "limit"));
        }
        for value in ["-1", "2147483648", "9223372036854775807", "-99999999999999999999", "0x10", "%FF"] {
            cases.push((format!("{list}?offset={value}"), "offset"));
        }
        cases.push((format!("{list}?offset=1&limit=2147483647"), "limit"));
        cases.push((format!("{list}?limit=1&offset=1&cursor=abc"), "offset"));
        cases.push((format!("{list}?cursor=abc"), "cursor"));
        cases.push((format!("{list}?cursor=-1"), "cursor"));
        cases.push((format!("{list}?limit=1&limit=2"), "limit"));
        cases.push((format!("{list}?cursor=a&offset=0&cursor=b"), "cursor"));
    }
    for (path, name) in [
        ("/messages?order=up", "order"),
        ("/messages?role=nobody", "role"),
        ("/messages?role=user&role=tool", "role"),
        ("/turns?order=asc", "order"),
        ("/session/ledger?order=up", "order"),
        ("/turns/turn_nobody?wait=-1", "wait"),
        ("/turns/turn_nobody?wait=61", "wait"),
        ("/turns/turn_nobody?wait=soon", "wait"),
        ("/turns/turn_nobody?wait=1&wait=2", "wait"),
        ("/models?provider=nobody", "provider"),
        ("/messages/stream?after=nonsense", "after"),
        ("/messages/stream?after=0&after=0", "after"),
        ("/events?after=nonsense", "after"),
        ("/events?after=e1-99999999999999999999", "after"),
        ("/events?types=nonsense", "types"),
        ("/events?types=content_delta,-nonsense", "types"),
        ("/events?types=content_delta&types=turn_started", "types"),
        // For pages alone.
        ("/events?limit=5", "limit"),
        ("/events?wait=5", "wait"),
    ] {
        cases.push((path.to_owned(), name));
    }
    for (path, name) in &cases {
        let problem = server.rest.get(path).await.problem(400, "invalid_argument");
        assert_eq!(field(&problem), *name, "{path} {problem}");
    }
    for (query, name) in [
        ("limit=-1", "limit"),
        ("limit=1001", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("wait=-1", "wait"),
        ("wait=61", "wait"),
        ("after=nonsense", "after"),
        ("types=nonsense", "types"),
    ] {
        let request = server.rest.request("GET", &format!("/events?{query}")).header("accept", "application/json");
        let problem = Answer::of(request).await.problem(400, "invalid_argument");
        assert_eq!(field(&problem), name, "{query} {problem}");
    }
    for path in
        ["/messages?limit=0&offset=0&cursor=", "/messages?offset=2147483647&limit=200", "/turns?offset=2147483647"]
    {
        assert_eq!(server.rest.read(path).await["pagination"]["total"], 0, "{path}");
    }
    untouched(&model, &server).await;
}

#[tokio::test]
async fn page_cursors_of_another_list_or_session_are_refused() {
    let model = Model::start(Dialect::OpenAi, vec![vec![text("Yes.")]; 4]).await;
    let server = Setup::with(&model).start();
    server.rest.ask("One?").await;
    server.rest.ask("Two?").await;
    let cursor = |page: Value| page["pagination"]["next_cursor"].as_str().expect("a cursor").to_owned();
    let messages = cursor(server.rest.read("/messages?limit=1").await);
    let turns = cursor(server.rest.read("/turns?limit=1").await);
    server.rest.read(&format!("/messages?cursor={messages}")).await;
    let refused = async |path: String| {
        let problem = server.rest.get(&path).await.problem(400, "invalid_argument");
        assert_eq!(field(&problem), "cursor", "{path} {problem}");
    };
    refused(format!("/messages?cursor={turns}")).await;
    refused(format!("/turns?cursor={messages}")).await;
    refused(format!("/messages?order=desc&cursor={messages}")).await;
    server.rest.post("/session/reset", &json!({})).await.ok();
    server.rest.ask("Three?").await;
    server.rest.ask("Four?").await;
    refused(format!("/messages?cursor={messages}")).await;
}

#[tokio::test]
async fn names_of_nobody() {
    let (model, server) = ready().await;
    for path in
        ["/messages/msg_nobody", "/messages/msg_nobody/parts/0", "/turns/turn_nobody", "/messages/%00", "/turns/%FF"]
    {
        let answer = server.rest.get(path).await;
        // Bytes that are no text are no name at all.
        let (status, code) = if path.ends_with("%FF") { (400, "invalid_argument") } else { (404, "not_found") };
        let problem = answer.problem(status, code);
        assert!(status == 404 || field(&problem) == "id", "{problem}");
    }
    for index in ["x", "-", "1.5", "99999999999999999999", "%FF"] {
        let answer = server.rest.get(&format!("/messages/msg_nobody/parts/{index}")).await;
        assert_eq!(field(&answer.problem(400, "invalid_argument")), "index");
    }
    for name in ["gpt-5.22", "openai/gpt-5.22", "nobody/gpt-5.2", "GPT-5.2"] {
        for (method, path, body, wrong) in [
            ("POST", "/messages", json!({"text": "Hello.", "model": name}), "model"),
            ("PUT", "/agent/model", json!({"model_id": name}), "model_id"),
        ] {
            let problem = server.rest.send(method, path, &body).await.problem(400, "invalid_argument");
            assert_eq!(field(&problem), wrong, "{problem}");
            let detail = problem["detail"].as_str().expect("a detail");
            assert!(detail.contains(&format!("\"{name}\" is not known; did you mean \"")), "{detail}");
            assert!(detail.contains("/gpt-5.2"), "{detail}");
        }
    }
    // Known, but its provider is off.
    let off = json!({"text": "Hello.", "model": "openai/gpt-5.2"});
    let problem = server.rest.post("/messages", &off).await.problem(409, "no_model");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("OPENAI_API_KEY")), "{problem}");
    untouched(&model, &server).await;
}
