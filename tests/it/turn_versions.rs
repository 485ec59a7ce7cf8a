//! Versions and turns: what a turn changed, what others changed meanwhile, and who is told.

use std::{fs, time::Duration};

use serde_json::json;

use crate::support::{
    Dialect, Event, Gate, Model, Server, Setup, Step, Value,
    model::{bash, call, text},
    names, until,
};

fn put(server: &Server, name: &str, content: &str) {
    let path = server.workspace().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, content).expect("a file");
}

fn write(path: &str, content: &str) -> Step {
    call("write", &json!({"path": path, "content": content}))
}

fn named<'a>(events: &'a [Event], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event.name == name).map(|event| &event.json).collect()
}

/// A server that has its baseline, and a model with these answers.
async fn ready(answers: Vec<Vec<Step>>) -> (Model, Server) {
    let model = Model::start(Dialect::Anthropic, answers).await;
    let server = Setup::with(&model).start();
    server.version().await;
    (model, server)
}

async fn turn(server: &Server) -> (Vec<Event>, Value) {
    let events = server.rest.say(&json!({"text": "Go on."})).await.rest().await;
    let id = events[0].turn_id().as_str().expect("a turn").to_owned();
    (events, server.rest.read(&format!("/turns/{id}")).await)
}

/// The paths that a turn changed, with type, origin's turn and tool call.
async fn changes_of(server: &Server, turn: &Value) -> Vec<Value> {
    let id = turn["id"].as_str().expect("an id");
    server.rest.read(&format!("/files/changes?turn_id={id}")).await["changes"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn a_turn_lies_between_two_versions_and_tells_what_it_changed() {
    let answers = vec![
        vec![
            write("made.txt", "made\n"),
            bash("echo by command > README.md; rm -f gone.txt"),
            write("made.txt", "twice\n"),
        ],
        vec![text("Done.")],
    ];
    let (_model, server) = ready(answers).await;
    put(&server, "gone.txt", "there\n");
    let (events, turn) = turn(&server).await;
    let all = names(&events);
    assert_eq!(all[all.len() - 3..], ["files_changed", "agent_status_changed", "turn_completed"], "{all:?}");
    let ending = &events[events.len() - 3..];
    assert!(ending.windows(2).all(|pair| pair[0].seq() + 1 == pair[1].seq()));
    let (told, completed) = (&ending[0].json, &ending[2].json);
    assert_eq!((&told["by"], &told["turn_id"]), (&json!("after_turn"), &turn["id"]));
    assert_eq!((&told["version"], &turn["version_after"]), (&completed["version_after"], &completed["version_after"]));
    assert_eq!((&turn["version_before"], turn["version_before"].is_string()), (&completed["version_before"], true));
    let files = json!([
        {"path": "README.md", "type": "modified"}, {"path": "gone.txt", "type": "deleted"}, {"path": "made.txt", "type": "created"},
    ]);
    assert_eq!(told["files"], files);
    let changes = changes_of(&server, &turn).await;
    assert_eq!(changes.len(), 3);
    for change in &changes {
        let origin = &change["origin"];
        assert_eq!((&origin["by"], &origin["turn_id"]), (&json!("after_turn"), &turn["id"]), "{change}");
        assert_eq!(origin["version"], turn["version_after"]);
        assert_eq!(origin.get("tool_call_id").is_some(), change["path"] == "made.txt", "{change}");
    }
    // The last call that wrote it.
    let calls = named(&events, "tool_call_started");
    assert_eq!(changes[2]["origin"]["tool_call_id"], calls[2]["tool_call_id"]);
    assert_eq!(changes[2]["new_content"], "twice\n");
    let versions = server.rest.read("/files/versions").await;
    let newest = &versions["versions"][0];
    assert_eq!(
        (&newest["cause"], &newest["turn_id"], &newest["files_changed"]),
        (&json!("after_turn"), &turn["id"], &json!(3))
    );
    // What was there before the turn came from outside.
    let before = &versions["versions"][1];
    assert_eq!((&before["id"], &before["files_changed"]), (&turn["version_before"], &json!(1)));
}

#[tokio::test]
async fn a_turn_that_writes_nothing_ends_where_it_began() {
    let answers = vec![
        vec![call("view", &json!({"path": "README.md"}))],
        vec![text("Seen.")],
        vec![bash("true")],
        vec![text("Done.")],
    ];
    let (_model, server) = ready(answers).await;
    for _ in 0..2 {
        let (events, turn) = turn(&server).await;
        assert_eq!(turn["version_after"], turn["version_before"], "{turn}");
        assert!(turn["version_before"].is_string() && named(&events, "files_changed").is_empty());
        assert_eq!(changes_of(&server, &turn).await, Vec::<Value>::new());
    }
}

#[tokio::test]
async fn what_others_change_is_not_put_on_the_turn() {
    let gate = Gate::new();
    let answers = vec![
        // Longer than the server waits for more changes: it has to remember that it heard of one.
        vec![
            text("One. "),
            Step::Wait(gate.clone()),
            Step::Slowly("Two three four five.".into(), Duration::from_millis(250)),
        ],
        vec![write("mine.txt", "mine\n")],
        vec![text("Done.")],
    ];
    let (model, server) = ready(answers).await;
    let mut outside = server.rest.stream("/events?types=files_changed").await;
    let begun = server.rest.begin("Say something.").await;
    model.asked(0).await;
    // The turn's own version first, so that the change is one that came later.
    until("the version before", async || {
        let turn = server.rest.read(&format!("/turns/{}", begun["id"].as_str().expect("an id"))).await;
        turn.get("version_before").cloned()
    })
    .await;
    put(&server, "theirs.txt", "theirs\n");
    gate.open();
    let ended = server.rest.ended_turn(&begun["id"]).await;
    assert_eq!(ended["version_after"], ended["version_before"]);
    // It is told all the same, when the turn is over, without anybody's asking.
    let told = outside.next().await.json;
    assert_eq!((&told["by"], told.get("turn_id")), (&json!("outside"), None), "{told}");
    assert_eq!(told["files"], json!([{"path": "theirs.txt", "type": "created"}]));

    put(&server, "between.txt", "between\n");
    let (events, turn) = turn(&server).await;
    assert_eq!(named(&events, "files_changed")[0]["files"], json!([{"path": "mine.txt", "type": "created"}]));
    assert_eq!(changes_of(&server, &turn).await.len(), 1);
    let list = server.rest.read("/files/changes").await;
    let by: Vec<_> =
        list["changes"].as_array().expect("a list").iter().map(|it| (&it["path"], &it["origin"]["by"])).collect();
    let [outside, own] = [json!("outside"), json!("after_turn")];
    let [between, mine, theirs] = ["between.txt", "mine.txt", "theirs.txt"].map(|name| json!(name));
    assert_eq!(by, [(&between, &outside), (&mine, &own), (&theirs, &outside)]);
}

#[tokio::test]
async fn after_a_cancel_what_was_changed_follows_by_itself() {
    let answers = vec![vec![bash("echo changed > README.md; echo ready; sleep 100")], vec![text("Next.")]];
    let (_model, server) = ready(answers).await;
    let mut told = server.rest.stream("/events?types=files_changed").await;
    let mut following = server.rest.say(&json!({"text": "Go on."})).await;
    loop {
        let event = following.next().await;
        if event.name == "tool_output_delta" {
            break;
        }
    }
    server.rest.post("/agent/cancel", &json!({})).await.ok();
    let events = following.rest().await;
    let completed = &events.last().expect("an ending").json;
    assert_eq!(
        (&completed["finish_reason"], completed.get("version_after")),
        (&json!("canceled"), None),
        "{completed}"
    );
    // The next turn may begin before that version is there: the change is the first one's nevertheless.
    let (next, turn) = turn(&server).await;
    let told = told.next().await.json;
    assert_eq!(told["by"], "after_turn", "{told}");
    assert_eq!(told["files"], json!([{"path": "README.md", "type": "modified"}]));
    assert!(named(&next, "files_changed").is_empty());
    assert_eq!(turn["version_before"], told["version"]);
    let change = server.rest.read("/files/changes").await["changes"][0].clone();
    assert_eq!(
        (&change["origin"]["by"], &change["origin"]["turn_id"]),
        (&json!("after_turn"), completed.get("turn_id").expect("a turn"))
    );
}

#[tokio::test]
async fn a_turn_that_runs_is_seen_without_a_version() {
    let gate = Gate::new();
    let answers = vec![vec![write("mine.txt", "mine\n")], vec![Step::Wait(gate.clone()), text("Done.")]];
    let (model, server) = ready(answers).await;
    let begun = server.rest.begin("Write.").await;
    model.asked(1).await;
    let id = begun["id"].as_str().expect("an id");
    let now = server.rest.read(&format!("/files/changes?turn_id={id}")).await;
    let change = &now["changes"][0];
    assert_eq!((&change["path"], &change["origin"]["turn_id"]), (&json!("mine.txt"), &begun["id"]), "{change}");
    assert_eq!((change["origin"].get("version"), now.get("until_version")), (None, None));
    let busy = server.rest.post("/files/revert", &json!({"version": "v1"})).await.problem(409, "agent_busy");
    assert!(busy["detail"].as_str().expect("words").contains(id), "{busy}");
    gate.open();
    let ended = server.rest.ended_turn(&begun["id"]).await;
    assert_eq!(server.rest.read("/files/versions").await["versions"][0]["id"], ended["version_after"]);
}

/// A folder so large that its first version takes a while, and a tool that is faster.
#[tokio::test]
async fn what_a_tool_overwrites_while_the_baseline_is_taken_is_in_it() {
    let model = Model::start(
        Dialect::Anthropic,
        [
            vec![call("view", &json!({"path": "zzz/last.txt"}))],
            vec![
                write("zzz/last.txt", "new\n"),
                call("edit", &json!({"path": "made.txt", "old_string": "", "new_string": "made\n"})),
            ],
            vec![text("Done.")],
        ],
    )
    .await;
    let setup = Setup::with(&model);
    let workspace = setup.workspace();
    fs::create_dir(workspace.join("zzz")).expect("a folder");
    fs::write(workspace.join("zzz/last.txt"), "old\n").expect("a file");
    for folder in 0..60 {
        let folder = workspace.join(format!("many{folder}"));
        fs::create_dir(&folder).expect("a folder");
        for file in 0..250 {
            fs::write(folder.join(file.to_string()), format!("{file} in {}\n", folder.display())).expect("a file");
        }
    }
    let server = setup.start();
    let ended = server.rest.ask("Go on.").await["turn"].clone();
    server.version().await;
    let body = server.rest.read("/files/changes").await;
    let found: Vec<_> =
        body["changes"].as_array().expect("a list").iter().map(|it| (&it["path"], &it["old_content"])).collect();
    assert_eq!(found, [(&json!("made.txt"), &Value::Null), (&json!("zzz/last.txt"), &json!("old\n"))], "{ended}");
    server.rest.post("/files/revert", &json!({"version": body["since_version"]})).await.ok();
    assert_eq!(fs::read(workspace.join("zzz/last.txt")).expect("a file"), b"old\n");
}

#[tokio::test]
async fn the_next_turn_is_told_of_a_revert_and_no_other() {
    let answers =
        vec![vec![write("made.txt", "made\n")], vec![text("Done.")], vec![text("Next.")], vec![text("Last.")]];
    let (model, server) = ready(answers).await;
    let (_, first) = turn(&server).await;
    let before = first["version_before"].as_str().expect("a version");
    let wish = json!({"version": before, "dry_run": true});
    server.rest.post("/files/revert", &wish).await.ok();
    server.rest.post("/files/revert", &json!({"version": before})).await.ok();
    turn(&server).await;
    turn(&server).await;
    let asks = model.journal();
    let last_of =
        |number: usize| asks[number].body["messages"].as_array().expect("a list").last().expect("one").to_string();
    let words = format!("brought these files back to what they were in version {before}");
    assert_eq!((last_of(2).matches(&words).count(), last_of(2).contains("made.txt")), (1, true), "{}", last_of(2));
    assert!(!last_of(3).contains("brought these files back"), "{}", last_of(3));
}
