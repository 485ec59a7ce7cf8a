//! What was tried to get more than a token or a mode gives, and to keep others out.

use std::fs;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    access::{SCOPES, entry, guarded, token, write},
    support::{
        Answer, Dialect, Door, Gate, Model, Setup, Step,
        model::{bash, text},
        rpc::Rpc,
        soon, until,
    },
    through_every_door,
};

through_every_door! {
    a_message_does_not_get_the_looser_mode_of_a_turn_that_runs;
    a_queued_turn_is_no_looser_than_the_session_has_become;
    a_message_reads_files_only_for_who_may_read_them;
    keys_of_one_token_are_not_those_of_another;
}

/// A server that asks for tokens and for permissions, and its model.
async fn asking(answers: Vec<Vec<Step>>) -> (Setup, Model) {
    let model = Model::start(Dialect::Anthropic, answers).await;
    let setup = model.settings().into_iter().fold(guarded(), |setup, (name, value)| setup.env(name, value));
    (
        setup
            .env("OPENCODE_MODEL", model.id())
            .env("OPENCODE_TITLE_MODEL", "none")
            .env("OPENCODE_PERMISSION_MODE", "ask"),
        model,
    )
}

async fn a_message_does_not_get_the_looser_mode_of_a_turn_that_runs(door: Door) {
    let gate = Gate::new();
    let (setup, model) = asking(vec![vec![Step::Wait(gate.clone()), text("Yes.")]]).await;
    let server = setup.start();
    let all = server.through(door).bearer(&token("all"));
    let mine = json!({"parts": [{"type": "text", "text": "Go."}], "permission_mode": "auto"});
    all.begin_turn(mine).await.expect("a turn");
    model.asked(0).await;
    let steer = json!({"parts": [{"type": "text", "text": "Rather this."}], "when_busy": "steer"});
    let poor = server.through(door).bearer(&token("no-permissions-reply"));
    let refused = poor.begin_turn(steer.clone()).await.expect_err("a refusal");
    assert_eq!(refused.code, "permission_denied");
    assert!(refused.detail.contains("permissions:reply"), "{refused:?}");
    all.begin_turn(steer).await.expect("who may loosen may steer");
    gate.open();
}

async fn a_queued_turn_is_no_looser_than_the_session_has_become(door: Door) {
    let gate = Gate::new();
    let answers =
        vec![vec![Step::Wait(gate.clone()), text("Yes.")], vec![bash("touch unasked")], vec![text("It was denied.")]];
    let (setup, model) = asking(answers).await;
    let server = setup.start();
    let all = server.rest.clone().bearer(&token("all"));
    all.send("PATCH", "/session", &json!({"permission_mode": "auto"})).await.ok();
    all.begin("Go.").await;
    model.asked(0).await;
    let poor = server.through(door).bearer(&token("no-permissions-reply"));
    let queued =
        json!({"parts": [{"type": "text", "text": "And then."}], "when_busy": "queue", "permission_mode": "auto"});
    let queued = poor.begin_turn(queued).await.expect("it is as loose as the session").body;
    all.send("PATCH", "/session", &json!({"permission_mode": "read_only"})).await.ok();
    gate.open();
    let id = queued["id"].as_str().expect("an id");
    until("its end", async || (all.read(&format!("/turns/{id}")).await["status"] == "completed").then_some(())).await;
    assert!(!server.workspace().join("unasked").exists());
}

async fn a_message_reads_files_only_for_who_may_read_them(door: Door) {
    let server = guarded().env("OPENCODE_MODEL", "mock/demo").start();
    let poor = server.through(door).bearer(&token("no-files-read"));
    let wish = json!({"parts": [{"type": "text", "text": "Look."}], "attachments": [{"path": "README.md"}]});
    let refused = poor.begin_turn(wish.clone()).await.expect_err("a refusal");
    assert_eq!(refused.code, "permission_denied");
    assert!(refused.detail.contains("files:read"), "{refused:?}");
    server.through(door).bearer(&token("all")).begin_turn(wish).await.expect("a turn");
}

async fn keys_of_one_token_are_not_those_of_another(door: Door) {
    let server = guarded().env("OPENCODE_MODEL", "mock/demo").start();
    let mut turns = Vec::new();
    for id in ["all", "no-admin", "all"] {
        let wish = json!({"parts": [{"type": "text", "text": "Hello."}]});
        let client = server.through(door).bearer(&token(id));
        let (mut stream, replayed) = client.send_keyed(&wish, "nightly-7", None).await.expect("a turn");
        turns.push((stream.rest().await[0].turn_id().clone(), replayed));
    }
    assert!(turns[0].0 != turns[1].0 && turns[0].0 == turns[2].0 && turns[2].1, "{turns:?}");
}

/// Whoever says nothing, or half of what begins HTTP/2, has the time for headers and no more.
#[tokio::test]
async fn who_says_nothing_is_let_go() {
    let server = Setup::new().env("OPENCODE_HEADER_SECONDS", 1).env("OPENCODE_MAX_CONNECTIONS", 3).start();
    let address = server.rest.base.trim_start_matches("http://").to_owned();
    let mut silent = Vec::new();
    for bytes in [&b""[..], b"PRI * HT", b"GET /session HT"] {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream.write_all(bytes).await.expect("sent");
        silent.push(stream);
    }
    // All places are taken; they are free again in a second.
    server.rest.get("/session").await.ok();
    for mut stream in silent {
        // It may be answered before it is closed.
        let _ = soon("its end", stream.read_to_end(&mut Vec::new())).await;
    }
}

/// Watchers of health need no token, and so there may not be many of them.
#[tokio::test]
async fn watchers_without_a_token_are_few() {
    let server = guarded().start();
    let rpc = Rpc::grpc(&server.rest.base);
    let mut open = Vec::new();
    let refused = loop {
        match rpc.post("/grpc.health.v1.Health/Watch", Vec::new()).await {
            Ok(call) => open.push(call),
            Err(status) => break status,
        }
        assert!(open.len() < 200, "there is no end of them");
    };
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(open.len() >= 32);
    server.rest.clone().bearer(&token("all")).get("/session").await.ok();
    assert_eq!(server.rest.get("/health").await.status, 200);
}

/// A file of tokens that the workspace can take the place of is refused, and one without a token in it is.
#[test]
fn a_file_of_tokens_that_others_can_replace_is_refused() {
    let setup = guarded();
    let link = setup.workspace().join("tokens.json");
    std::os::unix::fs::symlink(setup.folder("tokens.json"), &link).expect("a link");
    let (code, said) = setup.env("OPENCODE_API_TOKENS_FILE", link.display()).fail_to_start();
    assert!(code == Some(1) && said.contains("lies inside the workspace"), "{said}");
    let mut empty = entry("empty", &SCOPES, None);
    empty["sha256"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into();
    write(&setup, &[empty]);
    let (code, said) = setup.fail_to_start();
    assert!(code == Some(1) && said.contains("no token at all"), "{said}");
}

/// Secrets that came as flags are not to be seen either.
#[tokio::test]
async fn flags_with_secrets_are_not_shown() {
    let mut setup = Setup::new();
    let secrets = ["--api-token", "--reply-token", "--anthropic-api-key", "--groq-api-key"].map(|flag| {
        let value = format!("planted-as-the-flag{flag}");
        setup = setup.flag(flag, &value);
        value
    });
    let server = setup.start();
    let shown = std::fs::read(format!("/proc/{}/cmdline", server.pid())).expect("a command line");
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("--api-token") && secrets.iter().all(|secret| !shown.contains(secret)), "{shown:?}");
    Answer::of(server.rest.request("GET", "/session").bearer_auth(&secrets[0])).await.ok();
}

/// Whatever is left of an answer when its token ends is not for whoever had it, however much that is.
#[tokio::test]
async fn a_download_and_a_stream_that_is_behind_end_with_their_token() {
    // More than the kernel takes for a reader that does not read.
    const TURNS: usize = 12;
    let model = Model::start(Dialect::Anthropic, []).await;
    let setup = model.settings().into_iter().fold(guarded(), |setup, (name, value)| setup.env(name, value));
    fs::write(setup.workspace().join("large.bin"), vec![b'x'; 64 << 20]).expect("a file");
    let server = setup.start();
    let rest = server.rest.clone().bearer(&token("all"));
    for _ in 0..TURNS {
        model.then(vec![text(&"x".repeat(900_000))]);
        rest.say(&json!({"text": "Say much."})).await.rest().await;
    }
    let mut all = rest.stream("/events?after=0").await;
    let mut download = rest.request("GET", "/raw/large.bin").send().await.expect("an answer");
    write(&setup, &[entry("other", &SCOPES, None)]);
    let other = server.rest.clone().bearer(&token("other"));
    until("the new file of tokens", async || (other.get("/session").await.status == 200).then_some(())).await;
    let events = all.rest().await;
    let last = events.last().expect("a frame");
    assert_eq!((&*last.name, &last.json["code"]), ("stream_closed", &json!("unauthenticated")));
    let answers = events.iter().filter(|event| event.name == "message_completed").count();
    assert!(answers < TURNS, "all {answers} were sent");
    let mut bytes = 0;
    let ended = loop {
        match download.chunk().await {
            Ok(Some(chunk)) => bytes += chunk.len(),
            ended => break ended,
        }
    };
    assert!(ended.is_err() && bytes < 64 << 20, "{bytes} bytes: {ended:?}");
}

/// An upload that is under way when its token ends is not put in its place.
#[tokio::test]
async fn an_upload_ends_with_its_token() {
    let setup = guarded();
    let server = setup.start();
    let address = server.rest.base.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.expect("a connection");
    let head = format!(
        "PUT /raw/late.bin HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 20\r\n\r\nbeginning.",
        token("all")
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    write(&setup, &[entry("other", &SCOPES, None)]);
    let other = server.rest.clone().bearer(&token("other"));
    until("the new file of tokens", async || (other.get("/session").await.status == 200).then_some(())).await;
    stream.write_all(b"the end...").await.expect("sent");
    let mut answer = String::new();
    let _ = soon("an answer", stream.read_to_string(&mut answer)).await;
    assert!(!answer.contains(" 201 "), "{answer}");
    assert!(!server.workspace().join("late.bin").exists());
}
