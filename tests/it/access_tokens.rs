//! Tokens: how they come, rotate and end, and who is told whose they are.

use std::fs;

use serde_json::json;
use tonic::Code;

use crate::{
    access::{SCOPES, entry, guarded, token, write},
    support::{
        Door, Setup,
        client::Rest,
        names,
        rpc::{Rpc, details},
        until,
    },
};

#[tokio::test]
async fn tokens_rotate_without_a_restart_and_streams_end_with_their_token() {
    let setup = guarded();
    let server = setup.start();
    let with = |id: &str| server.rest.clone().bearer(&token(id));
    let rpc = |id: &str| Rpc::grpc(&server.rest.base).header("authorization", &format!("Bearer {}", token(id)));
    write(&setup, &[entry("all", &SCOPES, None), entry("new", &SCOPES, None), entry("other", &SCOPES, None)]);
    until("the new file", async || server.log().contains("read again").then_some(())).await;
    with("new").get("/session").await.ok();
    let (mut stays, mut goes) = (with("other").stream("/events").await, with("new").stream("/events?after=0").await);
    let mut grpc = rpc("new").call("StreamEvents", &json!({})).await.expect("a stream");
    // A file that cannot be read changes nothing, and its error says nothing of what is in it.
    fs::write(setup.folder("tokens.json"), "tokens: [{id: broken").expect("a file");
    until("a word about it", async || server.log().contains("the tokens stay as they were").then_some(())).await;
    with("new").get("/session").await.ok();
    // One goes, and one loses a scope.
    write(&setup, &[entry("all", &SCOPES, None), entry("other", &SCOPES, None)]);
    let last = goes.rest().await.pop().expect("a frame");
    assert_eq!((&*last.name, &last.json["code"]), ("stream_closed", &json!("unauthenticated")));
    let ended = loop {
        match grpc.next().await.expect("an end with a status") {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert!(ended.metadata().contains_key("event-cursor"), "{ended:?}");
    with("new").get("/session").await.problem(401, "unauthenticated");
    // Those that stayed are not disturbed.
    with("other").send("PATCH", "/session", &json!({"title": "Still here"})).await.ok();
    let events = stays.until("session_updated").await;
    assert_eq!(events.last().expect("an event").json["token_id"], "other");
}

#[tokio::test]
async fn a_token_ends_at_its_time() {
    let setup = guarded();
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(2500);
    write(&setup, &[entry("short", &SCOPES, Some(&soon.to_string()))]);
    let server = setup.start();
    let rest = server.rest.clone().bearer(&token("short"));
    let mut stream = rest.stream("/events").await;
    let last = stream.rest().await.pop().expect("a frame");
    assert_eq!((&*last.name, &last.json["code"]), ("stream_closed", &json!("unauthenticated")));
    assert!(jiff::Timestamp::now() >= soon);
    assert!(!server.log().contains("read again"), "the file is the same: {}", server.log());
    rest.get("/session").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn wrong_tokens_are_limited_and_a_good_one_is_never_refused_for_them() {
    let server = guarded().start();
    let wrong = server.rest.clone().bearer("wrong");
    for _ in 0..10 {
        wrong.get("/session").await.problem(401, "unauthenticated");
    }
    let answer = wrong.get("/session").await;
    let wait: u64 = answer.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((30..=60).contains(&wait), "{wait}");
    answer.problem(429, "rate_limited");
    let refused = Rpc::grpc(&server.rest.base).header("authorization", "Bearer wrong");
    let refused = refused.unary("GetSession", &json!({})).await.expect_err("a refusal");
    assert_eq!((refused.code(), &*details(&refused).reason), (Code::ResourceExhausted, "RATE_LIMITED"));
    server.rest.clone().bearer(&token("all")).get("/session").await.ok();
    // Who asks for a token, as a page does, is told so at any time.
    server.rest.get("/session").await.problem(401, "unauthenticated");
    for path in ["/", "/docs/", "/openapi.json", "/health"] {
        assert_eq!(wrong.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn events_name_the_token_of_the_client_that_caused_them() {
    let setup = guarded().env("OPENCODE_MODEL", "mock/demo").env("OPENCODE_PERMISSION_MODE", "ask");
    let server = setup.start();
    let rest = server.rest.clone().bearer(&token("all"));
    let events = rest.say(&json!({"text": "Hello."})).await.rest().await;
    let by: Vec<_> = events.iter().filter(|event| event.json.get("token_id").is_some()).collect();
    assert_eq!(
        names(&by.iter().map(|event| (*event).clone()).collect::<Vec<_>>())[..2],
        ["message_created", "turn_started"]
    );
    assert!(by.iter().all(|event| event.json["token_id"] == "all"));
    let page = server.through(Door::Grpc);
    let page = page.bearer(&token("all")).list_events(json!({})).await.expect("a page").body;
    let first = page["events"].as_array().expect("events").iter().find(|event| event["type"] == "turn_started");
    assert_eq!(first.expect("the turn")["token_id"], "all");
    // What the agent does is nobody's.
    let last = events.last().expect("an event");
    assert_eq!((&*last.name, last.json.get("token_id")), ("turn_completed", None));
    // The scope stands for the reply token, and nothing else does where tokens are asked for.
    let loosen = json!({"permission_mode": "auto"});
    let refused = server.rest.clone().bearer(&token("no-permissions-reply")).send("PATCH", "/session", &loosen).await;
    assert!(refused.problem(403, "permission_denied")["detail"].to_string().contains("permissions:reply"));
    rest.send("PATCH", "/session", &loosen).await.ok();
    // The log has ids of tokens and none of the tokens.
    let log = server.log();
    assert!(!log.contains("a-token-for-tests") && !log.contains("reply token"), "{log}");
}

#[test]
fn what_cannot_be_meant_is_refused_at_the_start() {
    let setup = Setup::new();
    let file = setup.folder("tokens.json");
    let in_workspace = setup.workspace().join("tokens.json");
    fs::write(&in_workspace, "tokens: []").expect("a file");
    let twice = json!({"tokens": [entry("a", &[], None), entry("a", &["read"], None)]});
    for (text, words) in [
        ("tokens: [{id: a, sha256: abc, scopes: [read]}]".to_owned(), "is not of 64 hexadecimal digits"),
        ("tokens: [{id: 'a b', sha256: abc, scopes: [read]}]".to_owned(), "the id \"a b\" is not of"),
        (json!({"tokens": [entry("a", &["everything"], None)]}).to_string(), "everything"),
        (json!({"tokens": [], "more": 1}).to_string(), "more"),
        (twice.to_string(), "one id twice"),
    ] {
        fs::write(&file, text).expect("a file");
        let (code, said) = setup.env("OPENCODE_API_TOKENS_FILE", file.display()).fail_to_start();
        assert_eq!(code, Some(1));
        assert!(said.contains("OPENCODE_API_TOKENS_FILE") && said.contains(words), "{said}");
    }
    for (settings, words) in [
        (vec![("OPENCODE_API_TOKENS_FILE", in_workspace.display().to_string())], "lies inside the workspace"),
        (vec![("OPENCODE_API_TOKENS_FILE", "/nothing".to_owned())], "/nothing cannot be read"),
        (vec![("OPENCODE_API_TOKEN", "short".to_owned())], "at least 16"),
        (
            vec![("OPENCODE_API_TOKEN", token("a b")), ("OPENCODE_INSECURE_NO_AUTH", "true".to_owned())],
            "leave one of them out",
        ),
        (vec![("OPENCODE_CORS_ORIGINS", "*".to_owned())], "no token is asked for"),
        (vec![("OPENCODE_ALLOWED_HOSTS", "a b".to_owned())], "\"a b\", which is no name"),
    ] {
        let setup = settings.iter().fold(setup.clone(), |setup, (name, value)| setup.env(name, value));
        let (code, said) = setup.fail_to_start();
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn an_open_bind_makes_a_token_and_prints_it_once() {
    let setup = Setup::new().env("OPENCODE_HOST", "0.0.0.0");
    let mut server = setup.start();
    let said = until("the token", async || Some(server.log()).filter(|log| log.contains("mock/demo"))).await;
    let token = said.split("Bearer ").nth(1).and_then(|rest| rest.split('\'').next()).expect("a token").to_owned();
    assert_eq!((token.len(), said.matches(&token).count()), (64, 1), "{said}");
    assert!(!said.contains("reply token"), "{said}");
    let base = server.rest.base.replace("0.0.0.0", "127.0.0.1");
    let rest = Rest::new(base.clone());
    rest.get("/session").await.problem(401, "unauthenticated");
    rest.clone().bearer(&token).get("/session").await.ok();
    // The line is ready to try.
    let line: String = said.lines().skip_while(|line| !line.contains("curl")).take(4).collect::<Vec<_>>().join("\n");
    let output = std::process::Command::new("sh").args(["-c", &line]).output().expect("a shell");
    assert!(String::from_utf8_lossy(&output.stdout).contains("event: turn_completed"), "{output:?}");
    // The next start makes another one.
    server.restart().await;
    let rest = Rest::new(server.rest.base.replace("0.0.0.0", "127.0.0.1")).bearer(&token);
    rest.get("/session").await.problem(401, "unauthenticated");
    // Said to be meant, there is none.
    let setup = Setup::new().env("OPENCODE_HOST", "0.0.0.0").env("OPENCODE_INSECURE_NO_AUTH", true);
    let server = setup.start();
    Rest::new(server.rest.base.replace("0.0.0.0", "127.0.0.1")).get("/session").await.ok();
}
