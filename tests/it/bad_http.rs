//! HTTP around the operations: types, methods, what a client accepts, request ids, other origins, HEAD.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{Answer, Dialect, Gate, Model, Server, Setup, Step, model::text};

async fn ready() -> (Model, Server) {
    let model = Model::start(Dialect::OpenAi, []).await;
    let server = Setup::with(&model).start();
    (model, server)
}

/// Sends a request with these headers and this body.
async fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let request = server.rest.request(method, path).body(body.to_owned());
    Answer::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

const HELLO: &str = "{\"text\": \"Hello.\"}";

#[tokio::test]
async fn only_json_is_taken() {
    let (model, server) = ready().await;
    let bodies = [
        ("POST", "/messages", HELLO),
        ("PATCH", "/session", "{\"title\": \"a\"}"),
        ("POST", "/session/reset", "{\"title\": \"a\"}"),
        ("PUT", "/agent/model", "{\"model_id\": \"mock/demo\"}"),
        ("POST", "/agent/cancel", "{\"turn_id\": \"a\"}"),
    ];
    for (method, path, body) in bodies {
        for kind in
            ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "json", "", "*/*"]
        {
            let answer = send(&server, method, path, &[("content-type", kind)], body).await;
            let problem = answer.problem(415, "unsupported_media_type");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("application/json")), "{problem}");
        }
        send(&server, method, path, &[], body).await.problem(415, "unsupported_media_type");
    }
    for encoding in ["gzip", "br, identity", ""] {
        let headers = [("content-type", "application/json"), ("content-encoding", encoding)];
        let problem = send(&server, "POST", "/messages", &headers, HELLO).await.problem(415, "unsupported_media_type");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("Content-Encoding")), "{problem}");
    }
    assert!(server.rest.log().await.is_empty());
    for kind in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.some+json"] {
        model.then(vec![text("Yes.")]);
        let accept = ("accept", "application/json");
        let answer = send(&server, "POST", "/messages", &[("content-type", kind), accept], HELLO).await;
        assert_eq!(answer.ok()["turn"]["finish_reason"], "end_turn", "{kind}");
    }
    // Where a body may be left out, its type may be too.
    for path in ["/agent/cancel", "/session/reset"] {
        send(&server, "POST", path, &[], "").await.ok();
        send(&server, "POST", path, &[("content-type", "text/plain")], "").await.ok();
    }
}

#[tokio::test]
async fn paths_and_methods_that_there_are_not() {
    let (_model, server) = ready().await;
    for path in [
        "/nothing",
        "/Messages",
        "/messages/",
        "/messages/a/parts",
        "/messages/a/parts/0/more",
        "/session/reset/now",
        "/agent",
        "/raw",
        "/raw/",
        "/docs/nothing.js",
        "/..%2f..%2fetc/passwd",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let answer = send(&server, method, path, &[("content-type", "application/json")], "{}").await;
            // Assets are only for reading.
            let (status, code) = match (method, path.starts_with("/docs/")) {
                ("POST" | "DELETE", true) => (405, "method_not_allowed"),
                _ => (404, "not_found"),
            };
            answer.problem(status, code);
        }
    }
    let document: Value = serde_json::from_str(&opencode_api::openapi()).expect("JSON");
    let mut served: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let path = path.replace("{id}", "a").replace("{index}", "0").replace("{path}", "a/b");
        let methods = methods.as_object().expect("methods").keys().map(|method| method.to_uppercase());
        served.insert(path, methods.collect());
    }
    for path in ["/", "/docs", "/docs/", "/openapi.json"] {
        served.insert(path.to_owned(), BTreeSet::from(["GET".to_owned()]));
    }
    for (path, mut methods) in served {
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if methods.contains(method) {
                continue;
            }
            let answer = send(&server, method, &path, &[], "").await;
            assert_eq!(answer.status, 405, "{method} {path}");
            let allowed = answer.header("allow").unwrap_or_default().split(',').map(|name| name.trim().to_owned());
            assert_eq!(allowed.collect::<BTreeSet<_>>(), methods, "{method} {path}");
            if method != "HEAD" {
                let problem = answer.problem(405, "method_not_allowed");
                assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(method)), "{problem}");
            }
        }
    }
}

#[tokio::test]
async fn who_accepts_nothing_of_ours_is_told_before_anything_is_stored() {
    let (model, server) = ready().await;
    let json = ("content-type", "application/json");
    for accept in ["text/html", "image/*", "text/event-stream;q=0", "text/plain, application/xml"] {
        let answer = send(&server, "POST", "/messages", &[json, ("accept", accept)], HELLO).await;
        answer.problem(406, "not_acceptable");
        send(&server, "GET", "/events", &[("accept", accept)], "").await.problem(406, "not_acceptable");
        let answer = send(&server, "GET", "/messages/stream", &[("accept", accept)], "").await;
        answer.problem(406, "not_acceptable");
    }
    // There are no pages of this one.
    let answer = send(&server, "GET", "/messages/stream", &[("accept", "application/json")], "").await;
    answer.problem(406, "not_acceptable");
    for (name, value) in [("idempotency-key", "\t"), ("Idempotency-Key", "")] {
        for (path, body) in [("/messages", HELLO), ("/session/reset", "{}")] {
            let problem = send(&server, "POST", path, &[json, (name, value)], body).await;
            let problem = problem.problem(400, "invalid_argument");
            assert_eq!(problem["errors"][0]["field"], "Idempotency-Key", "{problem}");
        }
    }
    assert!(server.rest.log().await.is_empty() && model.journal().is_empty());
    // What cannot be read in Prefer is passed over, as the standard has it.
    for prefer in ["wait=soon", "wait=-1", "nonsense", "respond-async=no", ";;,", "return=minimal; x=\"y", "wait="] {
        model.then(vec![text("Yes.")]);
        let headers = [json, ("accept", "application/json"), ("prefer", prefer)];
        let answer = send(&server, "POST", "/messages", &headers, HELLO).await;
        assert_eq!((answer.status, answer.header("preference-applied")), (200, None), "{prefer}");
    }
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let (_model, server) = ready().await;
    for (path, is_problem) in
        [("/session", false), ("/nothing", true), ("/turns?limit=-1", true), ("/messages/a", true)]
    {
        let answer = send(&server, "GET", path, &[("x-request-id", "my-own:id/1")], "").await;
        assert_eq!(answer.header("x-request-id"), Some("my-own:id/1"), "{path}");
        if is_problem {
            let status = answer.status;
            let code = if status == 404 { "not_found" } else { "invalid_argument" };
            assert_eq!(answer.problem(status, code)["request_id"], "my-own:id/1");
        }
        // One that could not be logged as it is gets another in its place, and so does everybody who sent none.
        let mut seen = BTreeSet::new();
        for bad in [None, None, Some(""), Some("two words"), Some("a\u{e4}"), Some(&*"x".repeat(129))] {
            let headers: Vec<(&str, &str)> = bad.into_iter().map(|id| ("x-request-id", id)).collect();
            let answer = send(&server, "GET", path, &headers, "").await;
            let id = answer.header("x-request-id").expect("an id").to_owned();
            assert!(id.len() == 36 && seen.insert(id.clone()), "{id}");
        }
    }
}

#[tokio::test]
async fn other_origins_are_let_in_only_where_they_are_named() {
    let (_model, server) = ready().await;
    let origin = ("origin", "https://console.example");
    let answer = send(&server, "GET", "/session", &[origin], "").await;
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{:?}", answer.headers);
    let preflight = [origin, ("access-control-request-method", "POST")];
    let answer = send(&server, "OPTIONS", "/messages", &preflight, "").await;
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{:?}", answer.headers);
    answer.problem(403, "permission_denied");

    let named = "https://console.example, http://localhost:3000";
    let server = server.setup().env("OPENCODE_DATA_DIR", server.setup().folder("other").display());
    let server = server.env("OPENCODE_CORS_ORIGINS", named).start();
    let list = |answer: &Answer, name: &str| -> BTreeSet<String> {
        let value = answer.header(name).unwrap_or_default().to_lowercase();
        value.split(',').map(|item| item.trim().to_owned()).collect()
    };
    for path in ["/messages", "/opencode.v1.OpenCodeService/GetSession"] {
        let headers = [
            origin,
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type,x-grpc-web,last-event-id,prefer"),
        ];
        let answer = send(&server, "OPTIONS", path, &headers, "").await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin.1));
        assert!(list(&answer, "access-control-allow-methods").contains("patch"));
        let allowed = list(&answer, "access-control-allow-headers");
        for name in [
            "content-type",
            "authorization",
            "idempotency-key",
            "last-event-id",
            "prefer",
            "x-grpc-web",
            "grpc-timeout",
            "if-match",
            "if-none-match",
            "range",
        ] {
            assert!(allowed.contains(name), "{name} is not in {allowed:?}");
        }
        assert!(list(&answer, "vary").contains("origin"), "{:?}", answer.headers);
    }
    // Errors too: else a page could not read what was wrong.
    for path in ["/session", "/nothing", "/turns?limit=-1"] {
        let answer = send(&server, "GET", path, &[origin], "").await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin.1), "{path}");
        let exposed = list(&answer, "access-control-expose-headers");
        for name in [
            "x-request-id",
            "idempotent-replayed",
            "event-cursor",
            "location",
            "retry-after",
            "grpc-status",
            "grpc-message",
            "etag",
            "content-range",
            "content-disposition",
        ] {
            assert!(exposed.contains(name), "{name} is not in {exposed:?}");
        }
    }
    for stranger in ["https://evil.example", "https://console.example.evil", "null", "http://console.example"] {
        let answer = send(&server, "GET", "/session", &[("origin", stranger)], "").await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{stranger}");
    }
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let (model, server) = ready().await;
    model.then(vec![text("Yes.")]);
    let sent = server.rest.ask("Hello.").await;
    let message = sent["message"]["id"].as_str().expect("an id");
    let turn = sent["turn"]["id"].as_str().expect("an id");
    let paths = [
        "/health".to_owned(),
        "/session".to_owned(),
        "/session/stats".to_owned(),
        "/messages".to_owned(),
        format!("/messages/{message}"),
        format!("/messages/{message}/parts/0"),
        "/turns".to_owned(),
        format!("/turns/{turn}"),
        "/agent/status".to_owned(),
        "/models".to_owned(),
        "/".to_owned(),
        "/docs/".to_owned(),
        "/openapi.json".to_owned(),
        "/nothing".to_owned(),
        "/turns?limit=-1".to_owned(),
    ];
    for path in paths {
        let (get, head) = (server.rest.get(&path).await, send(&server, "HEAD", &path, &[], "").await);
        assert_eq!((get.status, get.header("content-type")), (head.status, head.header("content-type")), "{path}");
        assert_eq!(get.header("event-cursor"), head.header("event-cursor"), "{path}");
        assert!(head.body.is_empty(), "{path}");
    }
    // A stream has an end then.
    for path in ["/events", "/messages/stream"] {
        let head = send(&server, "HEAD", path, &[], "").await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{path}");
    }
}

#[tokio::test]
async fn who_hangs_up_while_it_sends_or_reads_leaves_nothing_behind() {
    use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream};
    let gate = Gate::new();
    let model = Model::start(Dialect::OpenAi, [vec![text("I "), Step::Wait(gate.clone()), text("am.")]]).await;
    let server = Setup::with(&model).start();
    let address = server.rest.base.trim_start_matches("http://").to_owned();
    let head = "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    // A body that never comes whole starts nothing.
    for body in [
        format!("{head}content-length: 100\r\n\r\n{HELLO}"),
        format!("{head}transfer-encoding: chunked\r\n\r\n12\r\n{HELLO}"),
    ] {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream.write_all(body.as_bytes()).await.expect("it is sent");
        stream.shutdown().await.expect("it is closed");
        let mut answer = String::new();
        // Whether anything is answered to it is no matter.
        let _ = stream.read_to_string(&mut answer).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert!(server.rest.log().await.is_empty());
    // What is no HTTP is answered or cut, and the next client is served.
    for nonsense in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream.write_all(nonsense.as_bytes()).await.expect("it is sent");
        stream.shutdown().await.expect("it is closed");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    // Whole, and then gone without a look at the answer.
    let mut stream = TcpStream::connect(&address).await.expect("a connection");
    let whole = format!("{head}content-length: {}\r\n\r\n{HELLO}", HELLO.len());
    stream.write_all(whole.as_bytes()).await.expect("it is sent");
    model.asked(0).await;
    drop(stream);
    let turn = server.rest.read("/agent/status").await["turn_id"].clone();
    gate.open();
    let turn = server.rest.ended_turn(&turn).await;
    assert_eq!(turn["finish_reason"], "end_turn");
    let last = server.rest.messages().await.pop().expect("a message");
    assert_eq!(last["parts"][0], json!({"type": "text", "text": "I am."}));
}
