//! Bringing files back: what can be, what is skipped, and what nobody else is told of.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use serde_json::json;

use crate::support::{
    Dialect, Model, Server, Setup, Value,
    edits::{Dice, change},
    model::text,
    repo::{assert_same_tree, tree},
};

fn put(server: &Server, name: &str, content: &str) {
    let path = server.workspace().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, content).expect("a file");
}

async fn revert(server: &Server, wish: Value) -> Value {
    server.rest.post("/files/revert", &wish).await.ok()
}

/// Files are back, and the model of the next turn knows of it: there is no moment between the two.
#[tokio::test]
async fn a_revert_and_what_the_next_model_is_told_are_one_act() {
    let model = Model::start(Dialect::Anthropic, [vec![text("Seen.")]]).await;
    let mut server = Setup::with(&model).start();
    let first = server.version().await;
    put(&server, "README.md", "# Other\n");
    let log = rusqlite::Connection::open(server.setup().data_dir().join("log.sqlite3")).expect("a log");
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON meta WHEN NEW.key = 'notes'
                  BEGIN SELECT RAISE(ABORT, 'refused'); END";
    log.execute_batch(refuse).expect("a trigger");
    server.rest.post("/files/revert", &json!({"version": first})).await.problem(500, "internal");
    let versions = server.rest.read("/files/versions").await;
    let causes: Vec<_> =
        versions["versions"].as_array().expect("a list").iter().map(|version| &version["cause"]).collect();
    assert!(!causes.contains(&&json!("revert")), "a version without the note: {causes:?}");
    log.execute_batch("DROP TRIGGER refuse").expect("no trigger");

    put(&server, "README.md", "# Other\n");
    let mut events = server.rest.stream("/events?types=files_changed").await;
    server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    while events.next().await.json["by"] != "revert" {}
    server.crash_and_restart();
    server.rest.ask("Go on.").await;
    let told = model.journal()[0].body["messages"].to_string();
    assert!(told.contains("brought these files back") && told.contains("README.md"), "{told}");
}

/// To every version and back again, whatever lies between.
#[tokio::test]
async fn drawn_changes_come_back_to_the_byte() {
    let setup = Setup::new();
    let outside = setup.folder("outside");
    fs::create_dir(&outside).expect("a folder");
    let server = setup.start();
    let mut known = vec![(server.version().await, tree(&server.workspace()))];
    for seed in 0..40 {
        let mut dice = Dice::new(77_000 + seed);
        for _ in 0..1 + dice.below(20) {
            change(&mut dice, &server.workspace(), &outside);
        }
        known.push((server.version().await, tree(&server.workspace())));
        let (version, expected) = &known[dice.below(known.len())];
        let done = revert(&server, json!({"version": version})).await;
        assert_eq!(done["skipped"], json!([]), "seed {seed}");
        assert_same_tree(&tree(&server.workspace()), expected, &format!("seed {seed}"));
        assert_eq!(server.changed_since(version).await, []);
    }
}

#[tokio::test]
async fn modes_and_kinds_come_back_and_what_git_does_not_know_stays() {
    let server = Setup::new().start();
    let file = |name: &str| server.workspace().join(name);
    put(&server, "run.sh", "#!/bin/sh\n");
    put(&server, "secret", "1\n");
    fs::set_permissions(file("run.sh"), fs::Permissions::from_mode(0o750)).expect("a mode");
    fs::set_permissions(file("secret"), fs::Permissions::from_mode(0o600)).expect("a mode");
    symlink("run.sh", file("link")).expect("a link");
    let first = server.version().await;
    put(&server, "run.sh", "#!/bin/false\n");
    fs::set_permissions(file("run.sh"), fs::Permissions::from_mode(0o640)).expect("a mode");
    put(&server, "secret", "2\n");
    fs::remove_file(file("link")).expect("a file");
    put(&server, "link/in/the/way", "");
    let done = revert(&server, json!({"version": first})).await;
    assert_eq!(done["skipped"], json!([]));
    let mode = |name: &str| fs::metadata(file(name)).expect("a file").permissions().mode() & 0o7777;
    assert_eq!((mode("run.sh"), mode("secret")), (0o750, 0o600));
    assert_eq!(fs::read_link(file("link")).expect("a link").to_str(), Some("run.sh"));
    assert_eq!(fs::read(file("run.sh")).expect("a file"), b"#!/bin/sh\n");
}

#[tokio::test]
async fn a_dry_run_and_a_wrong_expectation_touch_nothing() {
    let server = Setup::new().start();
    let first = server.version().await;
    put(&server, "README.md", "# Other\n");
    put(&server, "new.txt", "new\n");
    let second = server.version().await;
    let before = crate::support::repo::bytes_of(&server.workspace());
    let done = revert(&server, json!({"version": first, "dry_run": true})).await;
    assert_eq!(
        done["changes"],
        json!([{"path": "README.md", "type": "modified"}, {"path": "new.txt", "type": "deleted"}])
    );
    let wrong = json!({"version": first, "expected_version": first});
    let refused = server.rest.post("/files/revert", &wrong).await.problem(412, "precondition_failed");
    assert!(refused["detail"].as_str().expect("words").contains(&second), "{refused}");
    assert_eq!(crate::support::repo::bytes_of(&server.workspace()), before);
    assert_eq!(server.version().await, second);
    revert(&server, json!({"version": first, "expected_version": second})).await;
    assert_eq!(fs::read(server.workspace().join("README.md")).expect("a file"), b"# A project\n");
}

#[tokio::test]
async fn what_is_not_known_is_not_overwritten() {
    let server = Setup::new().start();
    put(&server, "a.log", "1\n");
    put(&server, "dir", "a file\n");
    let first = server.version().await;
    fs::remove_file(server.workspace().join("a.log")).expect("a file");
    fs::remove_file(server.workspace().join("dir")).expect("a file");
    server.version().await;
    put(&server, ".gitignore", "*.log\n");
    put(&server, "a.log", "ignored\n");
    put(&server, "dir/b.log", "ignored\n");
    let done = revert(&server, json!({"version": first, "paths": ["a.log", "dir"]})).await;
    let skipped = json!([{"path": "a.log", "reason": "ignored"}, {"path": "dir", "reason": "ignored"}]);
    assert_eq!((&done["skipped"], &done["changes"]), (&skipped, &json!([])));
    assert_eq!(fs::read(server.workspace().join("a.log")).expect("a file"), b"ignored\n");
    assert_eq!(fs::read(server.workspace().join("dir/b.log")).expect("a file"), b"ignored\n");
}

#[tokio::test]
async fn what_is_stored_no_more_is_skipped_before_anything_is_touched() {
    let setup = Setup::new();
    let server = setup.start();
    put(&server, "a.txt", "only in this version\n");
    put(&server, "b.txt", "1\n");
    let first = server.version().await;
    put(&server, "a.txt", "2\n");
    put(&server, "b.txt", "2\n");
    server.version().await;
    let id = git2::Oid::hash_object(git2::ObjectType::Blob, b"only in this version\n").expect("an id").to_string();
    let object = setup.data_dir().join("versions/objects.git/objects").join(&id[..2]).join(&id[2..]);
    fs::remove_file(object).expect("an object");
    let done = revert(&server, json!({"version": first})).await;
    assert_eq!(done["skipped"], json!([{"path": "a.txt", "reason": "gone"}]));
    assert_eq!(done["changes"], json!([{"path": "b.txt", "type": "modified"}]));
    assert_eq!(fs::read(server.workspace().join("a.txt")).expect("a file"), b"2\n");
    let body = server.rest.read(&format!("/files/changes?since_version={first}")).await;
    assert_eq!((&body["changes"][0]["truncated"], &body["complete"]), (&json!(true), &json!(false)));
}

/// However long it takes, nobody takes it for a change from outside.
#[tokio::test]
async fn a_large_revert_is_one_change_by_a_revert() {
    let server = Setup::new().start();
    let first = server.version().await;
    for number in 0..3_000 {
        put(&server, &format!("many/{number}"), &format!("{number}\n"));
    }
    let second = server.version().await;
    for number in 0..3_000 {
        put(&server, &format!("many/{number}"), "other\n");
    }
    server.version().await;
    let mut events = server.rest.stream("/events?types=files_changed").await;
    let asking = async {
        // As pages do that show what changed.
        for _ in 0..40 {
            server.rest.read("/files/changes?limit=1").await;
        }
    };
    let (done, ()) = tokio::join!(revert(&server, json!({"version": second})), asking);
    assert_eq!(done["changes"].as_array().map(Vec::len), Some(3_000));
    let told = events.next().await.json;
    assert_eq!(
        (&told["by"], &told["version"], &told["truncated"]),
        (&json!("revert"), &done["version_after"], &json!(true))
    );
    let versions = server.rest.read("/files/versions").await;
    assert_eq!(versions["versions"][0]["id"], done["version_after"]);
    assert_eq!(
        (&versions["versions"][1]["id"], &versions["versions"][0]["files_changed"]),
        (&done["version_before"], &json!(3000))
    );
    let change = server.rest.read(&format!("/files/changes?limit=1&since_version={first}")).await["changes"][0].clone();
    assert_eq!(change["origin"]["by"], "revert");
}
