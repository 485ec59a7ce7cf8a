//! Files that never answer: a turn that meets one goes on, and nobody is busy for ever.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Dialect, Model, Setup,
    model::{bash, call, text},
};

fn fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
    assert!(made.success());
}

/// The results of the first tool message.
fn results(messages: &[Value]) -> Vec<&str> {
    let tool = messages.iter().find(|message| message["role"] == "tool").expect("results");
    tool["parts"].as_array().expect("parts").iter().filter_map(|part| part["content"].as_str()).collect()
}

#[tokio::test]
async fn pipes_in_the_place_of_ignore_files_hold_nobody() {
    let walks = vec![
        call("ls", &json!({"path": "."})),
        call("glob", &json!({"pattern": "**/*.md"})),
        call("grep", &json!({"pattern": "project"})),
    ];
    let model = Model::start(Dialect::OpenAi, [walks, vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    let folder = server.workspace().join("folder");
    std::fs::create_dir(&folder).expect("a folder");
    fifo(&folder.join(".gitignore"));
    let sent = server.rest.ask("Look around.").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    let messages = server.rest.messages().await;
    for result in results(&messages) {
        assert!(result.contains("README.md"), "the rest is seen: {result}");
    }
}

#[tokio::test]
async fn a_pipe_in_the_place_of_gits_settings_holds_nobody() {
    let model = Model::start(Dialect::Anthropic, [vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    let config = server.workspace().join(".git/config");
    std::fs::remove_file(&config).expect("a repository");
    fifo(&config);
    let sent = server.rest.ask("Hello.").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
}

#[tokio::test]
async fn a_command_cannot_hold_the_turn_by_its_own_report() {
    let trick = r#"f=$(trap -p EXIT | grep -o "/[^ \"']*directory-[0-9a-f]*"); trap - EXIT; rm -f "$f"; mkfifo "$f"; echo "$f""#;
    let model = Model::start(Dialect::OpenAi, [vec![bash(trick)], vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    let sent = server.rest.ask("Try.").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    let messages = server.rest.messages().await;
    assert!(results(&messages)[0].contains("directory-"), "the trick was played: {:?}", results(&messages));
}

#[tokio::test]
async fn what_clients_send_makes_no_event_over_the_bound() {
    let server = Setup::new().start();
    let body = json!({"text": "a", "attachments": [{"path": "p".repeat(5000), "content": "x"}], "model": "mock/demo"});
    let problem = server.rest.post("/messages", &body).await.problem(400, "invalid_argument");
    assert_eq!(problem["errors"][0]["field"], "attachments[0].path");
}

#[tokio::test]
async fn arrays_are_no_objects() {
    let server = Setup::new().start();
    server.rest.send("PATCH", "/session", &json!(["t"])).await.problem(400, "invalid_argument");
    let body = json!({"parts": [["text", "a"]], "model": "mock/demo"});
    server.rest.post("/messages", &body).await.problem(400, "invalid_argument");
}
