//! What the server says of itself on stderr: a JSON object a line where nobody reads along, and one for each request.

use serde_json::json;

use crate::support::{Answer, Door, Rest, Server, Setup, Value, until};

/// The lines of the log so far; the reply token is the one that is for eyes.
fn lines(server: &Server) -> Vec<Value> {
    let log = server.log();
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().filter(|line| !line.starts_with("reply token: "));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

/// The one line of a request, when it is there.
async fn told(server: &Server, id: &str) -> Value {
    let found = until("the line of a request", async || {
        let of_it = |line: &Value| line["message"] == "request" && line["request_id"] == id;
        lines(server).into_iter().find(of_it)
    })
    .await;
    assert_eq!((&found["level"], &found["target"]), (&json!("INFO"), &json!("opencode_api::requests")));
    assert!(found["ms"].as_f64().is_some_and(|ms| ms >= 0.0) && found["timestamp"].is_string(), "{found}");
    found
}

fn is_of(line: &Value, method: &str, route: &str, code: &str) -> bool {
    (&line["method"], &line["route"], &line["code"], &line["token"])
        == (&json!(method), &json!(route), &json!(code), &json!(""))
}

#[tokio::test]
async fn each_request_has_a_line() {
    let server = Setup::new().start();
    for (method, path, route, code, id) in [
        ("GET", "/session", "/session", "200", "a"),
        ("GET", "/messages/msg_nobody?x=1", "/messages/{id}", "400", "b"),
        ("GET", "/files/secret/place.txt", "/files/{path}", "404", "c"),
        ("DELETE", "/no/such/secret", "other", "404", "d"),
        ("PUT", "/session", "/session", "405", "e"),
    ] {
        Answer::of(server.rest.request(method, path).header("x-request-id", id)).await;
        let line = told(&server, id).await;
        assert!(is_of(&line, method, route, code), "{line}");
    }
    assert!(!server.log().contains("secret"), "the template and not the path: {}", server.log());

    // Of a stream at its end, which here is that of its reader.
    let request = server.rest.request("GET", "/events?after=0").header("x-request-id", "stream");
    let mut stream = crate::support::Sse::open(request).await;
    stream.until("session_created").await;
    assert!(!server.log().contains(r#""request_id":"stream""#), "{}", server.log());
    drop(stream);
    let line = told(&server, "stream").await;
    assert!(is_of(&line, "GET", "/events", "200"), "{line}");
}

#[tokio::test]
async fn each_call_has_a_line() {
    let server = Setup::new().start();
    for (door, id) in [(Door::Grpc, "grpc"), (Door::GrpcWeb, "web")] {
        let rpc = |id: &str| {
            let base = &server.rest.base;
            let rpc = if door == Door::Grpc {
                crate::support::rpc::Rpc::grpc(base)
            } else {
                crate::support::rpc::Rpc::web(base)
            };
            rpc.header("x-request-id", id)
        };
        rpc(id).unary("GetSession", &json!({})).await.expect("an answer");
        let line = told(&server, id).await;
        assert!(is_of(&line, "POST", "opencode.v1.OpenCodeService/GetSession", "OK"), "{line}");
        let bad = format!("{id}-bad");
        rpc(&bad).unary("GetTurn", &json!({"turn_id": "turn_nobody"})).await.expect_err("no such turn");
        let line = told(&server, &bad).await;
        assert!(is_of(&line, "POST", "opencode.v1.OpenCodeService/GetTurn", "NOT_FOUND"), "{line}");
        let none = format!("{id}-none");
        rpc(&none).post("/opencode.v1.OpenCodeService/Secret", Vec::new()).await.err().expect("no such method");
        let line = told(&server, &none).await;
        assert!(is_of(&line, "POST", "other", "UNIMPLEMENTED"), "{line}");
        let stream = format!("{id}-stream");
        let call = rpc(&stream).call("StreamEvents", &json!({"after": "0"})).await.expect("a stream");
        drop(call);
        let line = told(&server, &stream).await;
        assert!(is_of(&line, "POST", "opencode.v1.OpenCodeService/StreamEvents", "gone"), "{line}");
    }
}

/// Probes come every few seconds for ever.
#[tokio::test]
async fn probes_are_for_those_who_ask_for_more() {
    for (debug, level) in [(false, None), (true, Some(json!("DEBUG")))] {
        let server = Setup::new().env("OPENCODE_DEBUG", debug).start();
        for path in ["/livez", "/readyz", "/health"] {
            Answer::of(server.rest.request("GET", path).header("x-request-id", path)).await.ok();
        }
        Answer::of(server.rest.request("GET", "/session").header("x-request-id", "last")).await.ok();
        told(&server, "last").await;
        let probes = lines(&server);
        let mut probes = probes.iter().filter(|line| line["route"] == "/readyz");
        assert_eq!(probes.next().map(|line| &line["level"]), level.as_ref());
    }
}

/// The id of the token, and never the token.
#[tokio::test]
async fn the_line_names_the_token() {
    let server = Setup::new().env("OPENCODE_API_TOKEN", "a-secret-of-a-test-0123456789").start();
    let rest = Rest::new(server.rest.base.clone());
    let request = rest.request("GET", "/session").bearer_auth("a-secret-of-a-test-0123456789");
    Answer::of(request.header("x-request-id", "with")).await.ok();
    Answer::of(rest.request("GET", "/session").header("x-request-id", "without")).await.problem(401, "unauthenticated");
    let line = told(&server, "with").await;
    assert!(line["token"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
    let line = told(&server, "without").await;
    assert!(is_of(&line, "GET", "/session", "401"), "{line}");
    assert!(!server.log().contains("a-secret-of-a-test"), "{}", server.log());
}

/// Whatever a client calls itself, its line is one.
#[tokio::test]
async fn a_line_cannot_be_made_up() {
    let server = Setup::new().start();
    let answer =
        Answer::of(server.rest.request("GET", "/session").header("x-request-id", "a\tb {\"level\":\"ERROR\"}")).await;
    let id = answer.header("x-request-id").expect("an id").to_owned();
    assert!(!id.contains('\t'));
    told(&server, &id).await;
    let _: &str = lines(&server)[0]["message"].as_str().expect("words");
}
