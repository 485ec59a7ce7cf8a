//! Tickets, for what cannot send a header; and what a server can do.

use serde_json::json;

use crate::{
    access::{SCOPES, entry, guarded, token, write},
    support::{Answer, Door, Server, Setup, client::Rest, sse::Sse},
    through_every_door,
};

through_every_door! {
    a_ticket_is_for_one_path_and_its_callers_scopes;
    what_a_server_can_do_is_told;
}

async fn ticket(server: &Server, door: Door, id: &str, path: &str) -> String {
    let made =
        server.through(door).bearer(&token(id)).create_ticket(json!({"path": path})).await.expect("a ticket").body;
    assert_eq!((&made["path"], made["ticket"].as_str().map(str::len)), (&json!(path), Some(64)));
    let expires: jiff::Timestamp = made["expires_at"].as_str().expect("a time").parse().expect("a time");
    assert_eq!(expires.duration_since(jiff::Timestamp::now()).as_hours(), 11);
    made["ticket"].as_str().expect("a ticket").to_owned()
}

async fn a_ticket_is_for_one_path_and_its_callers_scopes(door: Door) {
    let setup = guarded();
    let server = setup.env("RUST_LOG", "trace,h2=info,hyper=info").start();
    let rest = server.rest.clone().bearer(&token("all"));
    rest.send("PUT", "/files/a.txt", &json!({"content": "hello\n"})).await;
    let pass = ticket(&server, door, "all", "/raw/a.txt").await;
    rest.get("/session").await.ok();
    // As a link has it, more than once, with other parameters beside it.
    for _ in 0..3 {
        let answer = server.rest.get(&format!("/raw/a.txt?ticket={pass}")).await;
        assert_eq!((answer.status, &*answer.body), (200, &b"hello\n"[..]));
    }
    assert_eq!(Answer::of(server.rest.request("HEAD", &format!("/raw/a.txt?ticket={pass}"))).await.status, 200);
    for (method, path) in
        [("GET", "/raw/b.txt"), ("GET", "/files/a.txt"), ("GET", "/session"), ("DELETE", "/raw/a.txt")]
    {
        Answer::of(server.rest.request(method, &format!("{path}?ticket={pass}"))).await.problem(401, "unauthenticated");
    }
    server.rest.get(&format!("/raw/a.txt?ticket={}", "0".repeat(64))).await.problem(401, "unauthenticated");
    // A stream by EventSource: parameters go on behind it, and so does a reconnect.
    let pass = ticket(&server, door, "all", "/events").await;
    let mut stream = server.rest.stream(&format!("/events?ticket={pass}&after=0&types=session_created")).await;
    stream.until("session_created").await;
    drop(stream);
    let mut again = server.rest.stream(&format!("/events?after=0&ticket={pass}")).await;
    again.until("session_created").await;
    // It has its caller's scopes, and ends with its token.
    let poor = ticket(&server, door, "no-files-read", "/raw/a.txt").await;
    server.rest.get(&format!("/raw/a.txt?ticket={poor}")).await.problem(403, "permission_denied");
    write(&setup, &[entry("other", &SCOPES, None)]);
    let last = again.rest().await.pop().expect("a frame");
    assert_eq!((&*last.name, &last.json["code"]), ("stream_closed", &json!("unauthenticated")));
    server.rest.get(&format!("/events?ticket={pass}")).await.problem(401, "unauthenticated");
    for bad in ["", "events", "/events?after=0", "/events#x"] {
        let client = server.through(door).bearer(&token("other"));
        let refused = client.create_ticket(json!({"path": bad})).await.expect_err("it is no path");
        assert_eq!((&*refused.code, refused.fields), ("invalid_argument", vec!["path".to_owned()]), "{bad:?}");
    }
    let log = server.log();
    assert!(log.contains("/raw/a.txt") && !log.contains(&pass) && !log.contains(&poor), "a ticket is in no log");
}

#[tokio::test]
async fn a_ticket_of_a_page_is_for_that_page() {
    let app = "https://app.example";
    let server = guarded().env("OPENCODE_CORS_ORIGINS", format!("{app},https://other.example")).start();
    let rest = server.rest.clone().bearer(&token("all"));
    let asked = rest.request("POST", "/tickets").header("origin", app).json(&json!({"path": "/session"}));
    let pass = Answer::of(asked).await.ok()["ticket"].as_str().expect("a ticket").to_owned();
    let from = |origin: &str| server.rest.request("GET", &format!("/session?ticket={pass}")).header("origin", origin);
    Answer::of(from(app)).await.ok();
    Answer::of(from("https://other.example")).await.problem(401, "unauthenticated");
    Answer::of(from("https://evil.example")).await.problem(403, "permission_denied");
    // A browser names no origin to the server that the page came from.
    server.rest.get(&format!("/session?ticket={pass}")).await.ok();
}

/// Where nobody is asked for a token a ticket is made and nobody looks at it: a page needs no second way.
#[tokio::test]
async fn without_tokens_tickets_change_nothing() {
    let server = Setup::new().start();
    let made = server.rest.post("/tickets", &json!({"path": "/events"})).await.ok();
    let url = format!("/events?after=0&ticket={}", made["ticket"].as_str().expect("a ticket"));
    drop(Sse::open(server.rest.request("GET", &url)).await);
    server.rest.get("/session?ticket=anything").await.ok();
}

async fn what_a_server_can_do_is_told(door: Door) {
    let setup =
        guarded().env("OPENCODE_MAX_TEXT_BYTES", 1000).env("OPENCODE_TURN_TOKENS", 77).env("OPENCODE_TURN_USD", "0.5");
    let server = setup.env("OPENCODE_RETENTION_HOURS", 2).start();
    let client = server.through(door).bearer(&token("no-read"));
    let told = client.get_capabilities().await.expect("capabilities").body;
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert!(told["features"]["queue"] == true && told["features"].get("sandbox").is_none());
    assert_eq!(told["sandbox"], json!({"kind": "none", "active": false}));
    let limits = &told["limits"];
    for (name, value) in [
        ("max_text_bytes", 1000),
        ("turn_tokens", 77),
        ("turn_usd_micros", 500_000),
        ("retention_s", 7200),
        ("heartbeat_s", 15),
        ("stall_s", 60),
        ("drain_s", 0),
        ("max_files_per_page", 10_000),
    ] {
        assert_eq!(limits[name], value, "{limits}");
    }
    assert!(limits.get("session_tokens").is_none(), "what is not limited is absent: {limits}");
    // All are told by the setting's own name, so that a client that is refused finds it.
    let long = json!({"parts": [{"type": "text", "text": "x".repeat(2000)}], "model": "mock/demo"});
    let refused = server.through(door).bearer(&token("all")).begin_turn(long).await.expect_err("a refusal");
    assert_eq!(refused.code, "too_large");
    assert!(refused.detail.contains("OPENCODE_MAX_TEXT_BYTES"), "{refused:?}");
    assert_eq!(Rest::new(server.rest.base.clone()).get("/capabilities").await.status, 401);
}
