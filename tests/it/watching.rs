//! Changes from outside: told by themselves, bounded, and kept within limits of time, bytes and number.

use std::fs;

use serde_json::json;

use crate::{
    changes::assert_same_as_git,
    support::{
        Dialect, Model, Server, Setup, Value,
        model::{bash, text},
        repo::said,
        until,
    },
};

fn put(server: &Server, name: &str, content: impl AsRef<[u8]>) {
    let path = server.workspace().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, content).expect("a file");
}

/// Files that are told of as changed, up to the one of that path.
async fn told(events: &mut crate::support::Sse, last: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    while !all.iter().any(|(path, _)| path == last) {
        let event = events.next().await.json;
        assert_eq!((&event["by"], event.get("turn_id")), (&json!("outside"), None), "{event}");
        assert!(event["version"].is_string());
        let files = event["files"].as_array().expect("a list").iter();
        all.extend(files.map(|it| {
            (it["path"].as_str().expect("a path").to_owned(), it["type"].as_str().expect("a type").to_owned())
        }));
    }
    all
}

#[tokio::test]
async fn changes_from_outside_are_told_by_themselves() {
    let server = Setup::new().start();
    server.version().await;
    let mut events = server.rest.stream("/events?types=files_changed").await;
    put(&server, "README.md", "# Other\n");
    assert_eq!(told(&mut events, "README.md").await, [("README.md".into(), "modified".into())]);
    put(&server, "new/deep/er/file.txt", "1\n");
    assert_eq!(told(&mut events, "new/deep/er/file.txt").await.len(), 1);
    put(&server, "new/deep/er/file.txt", "2\n");
    assert_eq!(told(&mut events, "new/deep/er/file.txt").await.len(), 1);
    fs::rename(server.workspace().join("new"), server.workspace().join("old")).expect("a folder");
    let moved = told(&mut events, "old/deep/er/file.txt").await;
    assert!(moved.contains(&("new/deep/er/file.txt".into(), "deleted".into())), "{moved:?}");
    // What was moved is heard of where it is now.
    put(&server, "old/deep/er/file.txt", "3\n");
    assert_eq!(told(&mut events, "old/deep/er/file.txt").await, [("old/deep/er/file.txt".into(), "modified".into())]);
}

/// A folder that has been empty for a while, and one that comes from elsewhere.
#[tokio::test]
async fn changes_in_folders_that_held_nothing_are_told_by_themselves() {
    let server = Setup::new().start();
    server.version().await;
    let mut events = server.rest.stream("/events?types=files_changed").await;
    fs::create_dir_all(server.workspace().join("empty/inside")).expect("a folder");
    put(&server, "mark.txt", "1");
    told(&mut events, "mark.txt").await;
    put(&server, "empty/inside/file", "1");
    assert_eq!(told(&mut events, "empty/inside/file").await.len(), 1);
    let beside = server.setup().folder("beside");
    fs::create_dir(&beside).expect("a folder");
    fs::write(beside.join("in.txt"), "in\n").expect("a file");
    fs::rename(&beside, server.workspace().join("inside")).expect("a folder");
    assert_eq!(told(&mut events, "inside/in.txt").await.len(), 1);
    put(&server, "inside/in.txt", "in here\n");
    assert_eq!(told(&mut events, "inside/in.txt").await.len(), 1);
}

#[tokio::test]
async fn many_changes_are_one_event_that_says_it_is_cut() {
    let server = Setup::new().start();
    let since = server.version().await;
    let mut events = server.rest.stream("/events?types=files_changed").await;
    // More than the kernel keeps for who does not listen is not to be feared: then everything is looked at.
    for number in 0..20_000 {
        put(&server, &format!("d{}/{number}", number % 50), "");
    }
    server.version().await;
    assert_same_as_git(&server, &server.newest_version().await, "many");
    let event = events.next().await.json;
    assert!(event["files"].as_array().expect("a list").len() <= 500);
    let body = server.rest.read(&format!("/files/changes?limit=1&since_version={since}")).await;
    assert_eq!(body["pagination"]["total"], 20_000);
}

#[tokio::test]
async fn what_is_over_the_bytes_of_a_look_is_unknown() {
    let setup = Setup::new().env("OPENCODE_VERSION_BYTES", 2000);
    fs::remove_dir_all(setup.workspace().join(".git")).expect("a folder");
    fs::write(setup.workspace().join("large.txt"), "x".repeat(5000)).expect("a file");
    fs::write(setup.workspace().join("small.txt"), "1\n").expect("a file");
    let server = setup.start();
    let newest = server.newest_version().await;
    assert_eq!(newest["partial"], true);
    assert_eq!(newest["left_out"], json!([{"path": "large.txt", "reason": "bytes"}]));
    let since = newest["id"].as_str().expect("an id").to_owned();
    // Small enough to be read from now on, and deleted: neither is a change that anybody knows of.
    put(&server, "large.txt", "y\n");
    put(&server, "small.txt", "2\n");
    let body = server.rest.read(&format!("/files/changes?since_version={since}")).await;
    assert_eq!(body["changes"].as_array().map(Vec::len), Some(1), "{body}");
    assert_eq!((&body["changes"][0]["path"], &body["complete"]), (&json!("small.txt"), &json!(false)));
    assert_eq!(body["left_out"], json!([{"path": "large.txt", "reason": "bytes"}]));
    let done = server.rest.post("/files/revert", &json!({"version": since})).await.ok();
    assert_eq!(done["changes"], json!([{"path": "small.txt", "type": "modified"}]));
    assert_eq!(done["skipped"], json!([{"path": "large.txt", "reason": "bytes"}]));
    assert_eq!(fs::read(server.workspace().join("large.txt")).expect("a file"), b"y\n");
    fs::remove_file(server.workspace().join("large.txt")).expect("a file");
    assert_eq!(server.changed_since(&since).await, []);
    // A version that lacks nothing comes of itself when there is nothing more to lack.
    assert_eq!(server.newest_version().await["partial"], false);
}

#[tokio::test]
async fn old_versions_are_given_up_and_numbers_never_come_back() {
    let setup = Setup::new().env("OPENCODE_VERSIONS_KEPT", 5);
    let mut server = setup.start();
    let baseline = server.version().await;
    assert_eq!(baseline, "v1");
    for number in 0..110 {
        put(&server, "counter.txt", format!("{number}\n"));
        assert_eq!(server.version().await, format!("v{}", number + 2));
    }
    let ids = async |server: &Server| {
        let list = server.rest.read("/files/versions?limit=200").await;
        list["versions"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| it["id"].as_str().expect("an id").to_owned())
            .collect::<Vec<_>>()
    };
    // The baseline stays, whatever is given up.
    let kept =
        until("old versions are given up", async || Some(ids(&server).await).filter(|kept| kept.len() < 60)).await;
    assert_eq!((kept[0].as_str(), kept[kept.len() - 1].as_str()), ("v111", "v1"));
    server.rest.get("/files/changes?since_version=v2").await.problem(404, "not_found");
    assert_eq!(server.changed_since("v1").await, [("counter.txt".into(), "created".into())]);
    server.rest.post("/session/reset", &json!({})).await.ok();
    let body = server.rest.read("/files/changes").await;
    assert_eq!((&body["since_version"], &body["changes"]), (&json!("v112"), &json!([])));
    server.restart().await;
    let kept =
        until("the old baseline is given up too", async || Some(ids(&server).await).filter(|kept| kept.len() <= 6))
            .await;
    assert_eq!(kept[0], "v112");
    put(&server, "counter.txt", "last\n");
    assert_eq!(server.version().await, "v113");
    server.crash_and_restart();
    put(&server, "counter.txt", "really\n");
    assert_eq!(server.version().await, "v114");
    server.rest.post("/files/revert", &json!({"version": "v112"})).await.ok();
    assert_eq!(fs::read(server.workspace().join("counter.txt")).expect("a file"), b"109\n");
}

#[tokio::test]
async fn a_reset_takes_a_new_baseline_and_keeps_the_versions() {
    let server = Setup::new().start();
    let first = server.version().await;
    put(&server, "README.md", "# Other\n");
    server.rest.post("/session/reset", &json!({})).await.ok();
    let body = server.rest.read("/files/changes").await;
    assert_eq!(body["changes"], json!([]));
    assert_ne!(body["since_version"], first.as_str());
    assert_eq!(server.version_by("baseline").await["id"], body["since_version"]);
    assert_eq!(server.changed_since(&first).await, [("README.md".into(), "modified".into())]);
    server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(fs::read(server.workspace().join("README.md")).expect("a file"), b"# A project\n");
}

/// However a server ends, the next one has versions that hold.
#[tokio::test]
async fn a_crash_leaves_versions_that_hold() {
    let setup = Setup::new();
    fs::remove_dir_all(setup.workspace().join(".git")).expect("a folder");
    for number in 0..6000 {
        let folder = setup.workspace().join(format!("d{}", number % 40));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("{number}")), format!("{number}\n")).expect("a file");
    }
    let mut server = setup.start();
    for _ in 0..4 {
        server.crash_and_restart();
    }
    assert_same_as_git(&server, &server.newest_version().await, "after crashes in the baseline");
    let scratch = setup.data_dir().join("versions/objects.git");
    said(crate::support::repo::command(&scratch).args(["fsck", "--full", "--strict"]));
    drop(server);

    let model = Model::start(
        Dialect::Anthropic,
        [vec![bash("echo changed > d0/0; rm d0/40; echo ready; sleep 100")], vec![text("Next.")]],
    )
    .await;
    let mut server =
        model.settings().into_iter().fold(setup.clone(), |setup, (name, value)| setup.env(name, value)).start();
    let before = server.version().await;
    let mut following = server.rest.say(&json!({"text": "Go on."})).await;
    while following.next().await.name != "tool_output_delta" {}
    server.crash_and_restart();
    let turn = server.rest.read("/turns?limit=1").await["turns"][0].clone();
    assert_eq!(
        (&turn["error"]["code"], &turn["version_before"], turn.get("version_after")),
        (&json!("interrupted"), &json!(before), None)
    );
    let changed = server.changed_since(&before).await;
    assert_eq!(changed, [("d0/0".into(), "modified".into()), ("d0/40".into(), "deleted".into())]);
    assert_same_as_git(&server, &server.newest_version().await, "after a crash in a turn");
    server.rest.post("/files/revert", &json!({"version": before})).await.ok();
    assert_eq!(fs::read(setup.workspace().join("d0/40")).expect("a file"), b"40\n");
    // What was kept from one start to the next may be gone or broken, or locked by who was killed.
    fs::write(setup.data_dir().join("versions/objects.git/config.lock"), "").expect("a file");
    for damage in ["manifest", "objects.git/HEAD", "reading.git"] {
        server.kill();
        let path = setup.data_dir().join("versions").join(damage);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("a folder");
        } else {
            fs::write(path, "broken").expect("a file");
        }
        server = setup.start();
        assert_eq!(server.changed_since(&before).await, [], "{damage}");
        let _: Value = server.rest.read("/files/versions").await;
    }
}
