//! Keys are nowhere to be read by the commands of the agent, whoever runs it; and the binary as the first process.

use std::{fs, process::Command};

use serde_json::json;

use crate::{
    events::check_against_reads,
    support::{
        Dialect, Model, Server, Setup,
        model::{bash, text},
        processes::Mark,
        soon, until,
    },
    tools::run,
};

/// The beginning of every key that is planted here.
const KEY: &str = "sk-planted";

/// With keys in variables and flags. They are known by their beginning, which the tests' own commands do not write in one
/// piece, since the log keeps commands.
fn planted(model: &Model) -> Setup {
    let setup = Setup::with(model).env("HARMLESS", "seen");
    ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "OPENCODE_API_TOKEN", "OPENCODE_REPLY_TOKEN"]
        .iter()
        .fold(setup, |setup, name| setup.env(name, format!("{KEY}-{name}")))
        .flag("--groq-api-key", &format!("{KEY}-flag"))
}

/// Has a command read all that it can of the processes above it and of the data directory.
async fn find_keys(model: &Model, server: &Server, first: &str) {
    let data = server.setup().data_dir().display().to_string();
    let look = format!(
        "server=$(grep PPid: /proc/$PPID/status | tr -dc 0-9); echo $server $PPID
        for process in $$ $PPID $server {first}; do
            echo \"of $process\"; for what in environ cmdline; do tr '\\0' '\\n' < /proc/$process/$what; done
        done 2>&1; grep -rl sk-plan''ted {data} && echo 'in the data'; echo 'all read'"
    );
    let ran = run(model, server, vec![bash(&look)]).await;
    let found = ran.good();
    assert!(found.contains("all read") && !found.contains(KEY), "{found}");
    assert!(!found.lines().any(|line| line == "in the data"), "{found}");
    let (_, of_server) = found.split_once("\nof ").expect("its own").1.split_once("\nof ").expect("the keeper");
    if rustix::process::geteuid().is_root() {
        // All of it was read, and nothing else is missing.
        assert_eq!(found.matches("HARMLESS=seen").count(), found.matches("\nof ").count(), "{found}");
        for left in ["ANTHROPIC_API_KEY=\n", "--groq-api-key\n"] {
            assert!(of_server.contains(left), "{left:?}: {found}");
        }
    } else {
        assert!(of_server.contains("Permission denied"), "{found}");
    }
    assert!(!server.data_holds(KEY) && !server.log().contains(KEY));
}

#[tokio::test]
async fn planted_keys_are_not_found() {
    for dialect in [Dialect::Anthropic, Dialect::OpenAi] {
        let model = Model::start(dialect, []).await;
        let server = planted(&model).start();
        find_keys(&model, &server, "").await;
        // They are not lost to the server itself.
        assert_eq!(sent_key(&model), Some(format!("{KEY}-{}", key_of(dialect))));
        check_against_reads(&server).await;
    }
}

fn key_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Anthropic => "ANTHROPIC_API_KEY",
        Dialect::OpenAi => "OPENAI_API_KEY",
    }
}

/// The key that came with the first call.
fn sent_key(model: &Model) -> Option<String> {
    let ask = model.journal().into_iter().next().expect("a call");
    let bearer = ask.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    bearer.or_else(|| ask.headers.get("x-api-key").cloned())
}

#[tokio::test]
async fn a_user_without_rights_reads_no_environment_of_the_server() {
    let model = Model::start(Dialect::Anthropic, []).await;
    let server = planted(&model).without_rights().start();
    let look = "server=$(grep PPid: /proc/$PPID/status | tr -dc 0-9)
        for process in $PPID $server; do cat /proc/$process/environ; ls -l /proc/$process/fd; done; exit 0";
    let ran = run(&model, &server, vec![bash(look)]).await;
    assert_eq!(ran.good().matches("Permission denied").count(), 4, "{}", ran.good());
}

/// Of the first process and the server in the namespace, their numbers outside of it.
fn inside(server: &Server, mark: &Mark) -> (u32, u32) {
    let all = mark.all();
    // `unshare` itself, the first process, the server.
    let child_of = |parent: u32| {
        let is_child = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line == format!("PPid:\t{parent}"))
        };
        all.iter().map(|(pid, _)| *pid).find(|pid| is_child(*pid)).expect("a child")
    };
    let first = child_of(server.pid());
    (first, child_of(first))
}

#[tokio::test]
async fn as_the_first_process_it_reaps_and_passes_on_signals() {
    let model = Model::start(Dialect::Anthropic, []).await;
    let (setup, mark) = planted(&model).as_first_process().marked();
    let mut server = setup.start();
    let (first, _) = inside(&server, &mark);
    find_keys(&model, &server, "1").await;
    // The exit codes of commands are the server's.
    let ran = run(&model, &server, vec![bash("echo $(readlink /proc/self); (setsid true &); exit 7")]).await;
    assert!(ran.good().ends_with("exit code 7"), "{}", ran.good());
    // What comes in from outside and loses its parent becomes a child of the first process.
    let enter = ["--target", &first.to_string(), "--user", "--preserve-credentials", "--pid", "--mount"];
    let skip = if rustix::process::geteuid().is_root() { 2..4 } else { 0..0 };
    let enter = enter.iter().enumerate().filter(|(index, _)| !skip.contains(index)).map(|(_, word)| *word);
    let orphans = "for n in 1 2 3; do true & done; exit 0";
    let entered = Command::new("nsenter").args(enter).args(["sh", "-c", orphans]).status().expect("nsenter");
    assert!(entered.success());
    let wait = "while grep -qs ') Z 1 ' /proc/[0-9]*/stat; do :; done; echo none";
    assert_eq!(run(&model, &server, vec![bash(wait)]).await.good(), "none\nexit code 0");
    // Its end is that of the server, which ends well.
    model.then(vec![bash("(setsid sleep 1001 &); echo ready; sleep 1001")]);
    let mut stream = server.rest.say(&json!({"text": "Run."})).await;
    stream.until("tool_output_delta").await;
    let pid = rustix::process::Pid::from_raw(first as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let ended = stream.rest().await;
    assert_eq!(ended.last().map(|event| event.name.as_str()), Some("turn_completed"));
    let status = soon("the end of the server", server.ended()).await;
    assert_eq!((status.code(), mark.all()), (Some(0), Vec::new()));
    // A start that fails is one of the first process too.
    let (code, said) = setup.env("OPENCODE_MODELS_FILE", "/nowhere").fail_to_start();
    assert_eq!(code, Some(1));
    assert!(said.contains("/nowhere"), "{said}");
}

#[tokio::test]
async fn with_the_server_its_container_ends() {
    let model = Model::start(Dialect::OpenAi, []).await;
    let (setup, mark) = Setup::with(&model).as_first_process().marked();
    let mut server = setup.start();
    model.then(vec![bash("(setsid sleep 1001 &); echo ready; sleep 1001")]);
    model.then(vec![text("Never.")]);
    let mut stream = server.rest.say(&json!({"text": "Run."})).await;
    stream.until("tool_output_delta").await;
    let pid = rustix::process::Pid::from_raw(inside(&server, &mark).1 as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    let status = soon("the end of the container", server.ended()).await;
    assert_eq!(status.code(), Some(137), "as shells tell of a signal");
    until("the end of all", async || mark.all().is_empty().then_some(())).await;
}
