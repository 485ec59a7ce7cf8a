//! Jobs: commands that run on after their call and their turn, and what ends them.

use std::fs;

use serde_json::json;

use crate::{
    events::check_against_reads,
    support::{
        Dialect, Model, Server, Setup, Step, Value,
        model::{call, text},
        processes::Mark,
        soon, until,
    },
    tools::{Ran, ready, run},
};

fn background(command: &str) -> Step {
    call("bash", &json!({"command": command, "background": true}))
}

fn job(id: &str, action: &str) -> Step {
    call("job", &json!({"id": id, "action": action}))
}

/// Waits, in a command, for what the test puts into the workspace.
fn wait_for(name: &str) -> String {
    format!("while [ ! -e {name} ]; do sleep 0.01; done")
}

fn put(server: &Server, name: &str) {
    fs::write(server.workspace().join(name), "").expect("a file");
}

/// Starts a job in a turn of its own, and answers its id.
async fn begin(model: &Model, server: &Server, command: &str) -> String {
    let ran = run(model, server, vec![background(command)]).await;
    id_of(&ran)
}

fn id_of(ran: &Ran) -> String {
    let words = ran.good();
    let id = words.strip_prefix("job ").and_then(|rest| rest.split(' ').next()).expect("an id").to_owned();
    assert!(words.starts_with(&format!("job {id} runs in the background (process ")), "{words}");
    id
}

/// A server that marks what it starts.
async fn marked() -> (Model, Server, Mark) {
    let model = Model::start(Dialect::Anthropic, []).await;
    let (setup, mark) = Setup::with(&model).marked();
    let server = setup.start();
    (model, server, mark)
}

#[tokio::test]
async fn a_job_runs_on_and_is_looked_after() {
    let (model, server) = ready().await;
    let id = begin(&model, &server, &format!("echo one; {}; echo two >&2; exit 3", wait_for("go"))).await;
    let metadata = server.rest.messages().await[2]["parts"][0]["metadata"].clone();
    assert_eq!(metadata["job_id"], json!(id));
    // Its turn has ended, and it runs.
    let first = until("its first output", async || {
        let ran = run(&model, &server, vec![job(&id, "output")]).await;
        ran.good().starts_with("one\n").then(|| ran.good().to_owned())
    })
    .await;
    assert_eq!(first, "one\nit runs");
    // What was told is told once.
    let ran = run(&model, &server, vec![job(&id, "output")]).await;
    assert_eq!(ran.good(), "(no new output)\nit runs");
    let ran = run(&model, &server, vec![call("job", &json!({"id": id, "action": "wait", "timeout_ms": 30}))]).await;
    assert_eq!(ran.good(), "(no new output)\nit runs");
    put(&server, "go");
    let ran = run(&model, &server, vec![job(&id, "wait")]).await;
    assert_eq!(ran.good(), "two\nit has ended: exit code 3");
    let messages = server.rest.messages().await;
    let last = messages.iter().rev().find(|message| message["role"] == "tool").expect("a result");
    let expected = json!({"job_id": id, "running": false, "exit_code": 3, "output_bytes": 4});
    assert_eq!(last["parts"][0]["metadata"], expected);
    // One that is over can still be asked.
    let ran = run(&model, &server, vec![job(&id, "end")]).await;
    assert_eq!(ran.good(), "(no new output)\nit has ended: exit code 3");
    check_against_reads(&server).await;
}

#[tokio::test]
async fn a_job_ends_with_all_that_it_has_started() {
    let (model, server, mark) = marked().await;
    let id = begin(&model, &server, "(setsid sleep 1001 &); echo $$; exec sleep 1001").await;
    assert!(mark.others(&server).len() >= 2);
    let ran = run(&model, &server, vec![job(&id, "end")]).await;
    assert!(ran.good().ends_with("\nit has ended: ended by signal 15"), "{}", ran.good());
    assert_eq!(mark.others(&server), [""; 0]);
    // It lives on in what it has started.
    let id = begin(&model, &server, &format!("({}; echo late) & echo early", wait_for("go"))).await;
    until("the end of its shell", async || {
        let ran = run(&model, &server, vec![job(&id, "output")]).await;
        ran.good().ends_with("its shell has ended (exit code 0), and what it has started runs").then_some(())
    })
    .await;
    put(&server, "go");
    let ran = run(&model, &server, vec![job(&id, "wait")]).await;
    assert_eq!(ran.good(), "late\nit has ended: exit code 0");
    // One that has a time.
    let wish = json!({"command": "echo in time; exec sleep 1001", "background": true, "timeout_ms": 200});
    let id = id_of(&run(&model, &server, vec![call("bash", &wish)]).await);
    let ran = run(&model, &server, vec![job(&id, "wait")]).await;
    assert_eq!(ran.good(), "in time\nit has ended: ended by signal 15");
    assert_eq!(mark.others(&server), [""; 0]);
    check_against_reads(&server).await;
}

#[tokio::test]
async fn a_jobs_output_is_bounded() {
    let (model, server) = ready().await;
    let id = begin(&model, &server, "yes | head -c 200000000").await;
    let ran = run(&model, &server, vec![job(&id, "wait")]).await;
    let half = "y\n".repeat(7_500);
    assert_eq!(ran.good(), format!("{half}\n[199970000 bytes cut here]\n{half}it has ended: exit code 0"));
}

#[tokio::test]
async fn what_is_no_job_is_told() {
    let (model, server) = ready().await;
    let ran = run(&model, &server, vec![job("proc_of_nobody", "output")]).await;
    assert_eq!(ran.bad(), "there is no job \"proc_of_nobody\", and no other one");
    let ids: Vec<String> = run(&model, &server, (0..16).map(|_| background("sleep 1001")).collect())
        .await
        .results
        .iter()
        .map(|words| words.split(' ').nth(1).expect("an id").to_owned())
        .collect();
    let ran = run(&model, &server, vec![job("proc_of_nobody", "wait")]).await;
    assert_eq!(ran.bad(), format!("there is no job \"proc_of_nobody\"; the jobs are {}", ids.join(", ")));
    let ran = run(&model, &server, vec![background("sleep 1001")]).await;
    assert!(ran.bad().starts_with("16 jobs run already; end one of them first: "), "{}", ran.bad());
    let ran = run(&model, &server, vec![job(&ids[7], "end"), background("true")]).await;
    assert_eq!(ran.errors, [false, false], "{:?}", ran.results);
    for (wrong, words) in [
        (json!({"id": ids[0], "action": "kill"}), "unknown variant `kill`"),
        (json!({"id": ids[0], "action": "wait", "timeout_ms": 600_001}), "between 1 and 600000"),
        (json!({"id": ids[0]}), "missing field `action`"),
    ] {
        let ran = run(&model, &server, vec![call("job", &wrong)]).await;
        assert!(ran.bad().contains(words), "{}", ran.bad());
    }
    let ran = run(&model, &server, vec![background(" ")]).await;
    assert_eq!(ran.bad(), "command: is blank");
}

#[tokio::test]
async fn a_job_is_cancelled_with_its_turn_and_no_other() {
    let (model, server, mark) = marked().await;
    let old = begin(&model, &server, "exec sleep 1002").await;
    model.then(vec![background("(setsid sleep 1001 &); exec sleep 1001")]);
    model.then(vec![text("I wait."), Step::Stall]);
    let mut stream = server.rest.say(&json!({"text": "Begin."})).await;
    stream.until_said("wait.").await;
    let canceled = server.rest.post("/agent/cancel", &json!({})).await.ok();
    let others = mark.others(&server);
    let keeper = others.iter().position(|line| line.contains("opencode-api keep-command"));
    assert!(others.len() == 2 && keeper.is_some(), "the old job and its keeper: {others:?}");
    let named = canceled["processes_ended"].as_array().expect("a list");
    assert_eq!(named.len(), 2, "{canceled}");
    stream.rest().await;
    let ran = run(&model, &server, vec![job(&old, "output")]).await;
    assert_eq!(ran.good(), "(no new output)\nit runs");
    check_against_reads(&server).await;
    // A turn's end of its own is not a cancel, also where that comes late.
    let nothing = server.rest.post("/agent/cancel", &json!({})).await.ok();
    assert_eq!(nothing["canceled"], false);
    assert_eq!(mark.others(&server).len(), 2);
}

#[tokio::test]
async fn jobs_end_with_the_session_and_with_the_server() {
    let (model, mut server, mark) = marked().await;
    let deaf = "trap '' TERM; (setsid sleep 1001 &); while :; do sleep 0.1; done";
    let id = begin(&model, &server, deaf).await;
    server.rest.post("/session/reset", &json!({})).await.ok();
    assert_eq!(mark.others(&server), [""; 0]);
    let ran = run(&model, &server, vec![job(&id, "output")]).await;
    assert_eq!(ran.bad(), format!("there is no job {id:?}, and no other one"));

    begin(&model, &server, deaf).await;
    server.terminate();
    let status = soon("the end of the server", server.ended()).await;
    assert_eq!((status.code(), mark.all()), (Some(0), Vec::new()));

    server = server.setup().start();
    begin(&model, &server, deaf).await;
    server.kill();
    until("the end of all", async || mark.all().is_empty().then_some(())).await;
}

/// The working directory is that of the call, and stays.
#[tokio::test]
async fn a_job_runs_where_the_commands_are() {
    let (model, server) = ready().await;
    fs::create_dir(server.workspace().join("sub")).expect("a folder");
    run(&model, &server, vec![call("bash", &json!({"command": "cd sub"}))]).await.good();
    let id = begin(&model, &server, "pwd; cd /; pwd").await;
    let ran = run(&model, &server, vec![job(&id, "wait"), call("bash", &json!({"command": "pwd"}))]).await;
    let folder = server.workspace().canonicalize().expect("a path").join("sub");
    assert_eq!(ran.results[0], format!("{}\n/\nit has ended: exit code 0", folder.display()));
    assert_eq!(ran.results[1], format!("{}\nexit code 0", folder.display()));
    let _: &Value = &server.rest.read("/agent/status").await;
}
