//! Settings that are left empty or wrong: a start that fails says which one, in one sentence.

use serde_json::json;

use crate::support::{
    Dialect, Door, Model, Setup,
    model::{bash, text},
    soon, until,
};

#[tokio::test]
async fn a_variable_that_is_empty_is_not_set() {
    let names = [
        "OPENCODE_HOST",
        "OPENCODE_DEBUG",
        "OPENCODE_MODEL",
        "OPENCODE_CORS_ORIGINS",
        "OPENCODE_MAX_BODY_BYTES",
        "OPENCODE_TURN_SECONDS",
        "OPENCODE_MODELS_FILE",
        "OPENCODE_MOCK_SCRIPT",
        "ANTHROPIC_API_KEY",
        "LOCAL_ENDPOINT",
        "RUST_LOG",
    ];
    let server = names.iter().fold(Setup::new(), |setup, name| setup.env(name, "")).start();
    let health = server.rest.read("/health").await;
    assert_eq!((&health["status"], &health["checks"]["model"]), (&json!("serving"), &json!("missing")));
    let off = server.rest.read("/models?provider=anthropic").await["models"][0].clone();
    assert_eq!(off["unavailable_reason"], "set ANTHROPIC_API_KEY");
}

/// Whoever wants no limit may set the largest number there is.
#[tokio::test]
async fn a_time_may_be_as_long_as_its_type_holds() {
    let names = [
        "OPENCODE_PERMISSION_TIMEOUT",
        "OPENCODE_PERMISSION_ABSENCE_SECONDS",
        "OPENCODE_DRAIN_TIMEOUT",
        "OPENCODE_WATCHDOG_SECONDS",
        "OPENCODE_STALL_SECONDS",
        "OPENCODE_HEADER_SECONDS",
        "OPENCODE_TURN_SECONDS",
        "OPENCODE_SESSION_SECONDS",
        "OPENCODE_FIRST_TOKEN_SECONDS",
        "OPENCODE_BETWEEN_TOKENS_SECONDS",
        "OPENCODE_VERSION_SECONDS",
        "OPENCODE_VERSION_WAIT_SECONDS",
        "OPENCODE_VERSION_WATCH_SECONDS",
        "OPENCODE_RETENTION_HOURS",
    ];
    let model = Model::start(Dialect::Anthropic, [vec![bash("touch it")], vec![text("Done.")]]).await;
    let mut server = names.iter().fold(Setup::with(&model).asking(), |setup, name| setup.env(name, u64::MAX)).start();
    let mut turn = server.rest.say(&json!({"text": "Go."})).await;
    let asked = turn.until("permission_requested").await.pop().expect("an event").json["permission"]["id"].clone();
    let client = server.trusted(Door::Rest);
    client.reply_permission(&asked, json!({"decision": "allow_once"})).await.expect("an answer");
    assert_eq!(turn.rest().await.last().expect("an event").json["finish_reason"], "end_turn");
    server.terminate();
    assert_eq!(soon("the end of the server", server.ended()).await.code(), Some(0), "{}", server.log());
}

#[test]
fn a_start_that_fails_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let setup = Setup::new();
    let file = setup.folder("file");
    std::fs::write(&file, "price: 1").expect("a file");
    for (name, value, words) in [
        ("GRPC_PORT", port.to_string(), "is taken by another program; set GRPC_PORT"),
        ("HTTP_PORT", port.to_string(), "is taken by another program; set HTTP_PORT"),
        ("OPENCODE_HOST", "192.0.2.1".to_owned(), "set OPENCODE_HOST"),
        ("OPENCODE_WORKSPACE", file.display().to_string(), "OPENCODE_WORKSPACE: "),
        ("OPENCODE_MODELS_FILE", "/nothing".to_owned(), "OPENCODE_MODELS_FILE: /nothing cannot be read"),
        ("OPENCODE_MODELS_FILE", file.display().to_string(), "OPENCODE_MODELS_FILE: "),
        ("OPENCODE_CORS_ORIGINS", "a b".to_owned(), "\"a b\", which is no origin"),
        ("OPENCODE_CORS_ORIGINS", "localhost:3000".to_owned(), "which is no origin such as https://"),
        ("OPENCODE_CORS_ORIGINS", "https://a.example/".to_owned(), "the origin is written https://a.example"),
        ("OPENCODE_CORS_ORIGINS", "HTTPS://A.example:443".to_owned(), "the origin is written https://a.example"),
    ] {
        let (code, said) = setup.env(name, &value).fail_to_start();
        assert_eq!(code, Some(1), "{name}={value}: {said}");
        assert!(said.contains(words) && !said.contains("data directory"), "{name}={value}: {said}");
        assert_eq!(said.lines().count(), 1, "one sentence: {said}");
    }
}

#[tokio::test]
async fn the_log_says_of_a_model_that_it_cannot_be_used_and_has_no_colours() {
    let server = Setup::new().env("OPENCODE_MODEL", "openai/gpt-5.22").start();
    let log = until("the warning", async || Some(server.log()).filter(|log| log.contains("gpt-5.22"))).await;
    assert!(log.contains(r#"did you mean \"openai/gpt-5.2\"?"#) && !log.contains('\x1b'), "{log:?}");
}
