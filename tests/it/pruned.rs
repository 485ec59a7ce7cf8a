//! Old versions that are given up: by number and by bytes, with their contents; those that stay stay whole.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::json;

use crate::{
    baselines::{plain, put},
    changes::check_patch,
    support::{
        Door, Server, Setup,
        edits::noise,
        repo::{Tree, assert_same_tree, bytes_of, command, copy, said, tree},
        until,
    },
};

/// Bytes of what each version has for itself, at least.
const EACH: usize = 200_000;

/// A server with versions v1 to v`count`, each with contents of its own; what was in each, and a copy of it.
async fn filled(setup: &Setup, count: u64) -> (Server, Vec<Tree>) {
    let workspace = setup.workspace();
    let server = setup.start();
    let mut trees = Vec::new();
    for number in 1..=count {
        if number > 1 {
            put(&workspace, "noise.bin", noise(number, EACH));
            put(&workspace, &format!("dir/{number}.txt"), format!("{number}\n"));
        }
        if number == 2 {
            // Not stored, but noted.
            put(&workspace, "large.bin", "");
            let large = fs::File::options().write(true).open(workspace.join("large.bin")).expect("a file");
            large.set_len(11 * 1024 * 1024).expect("a size");
        } else if number == 3 {
            fs::remove_file(workspace.join("large.bin")).expect("a file");
        }
        assert_eq!(server.version().await, format!("v{number}"));
        trees.push(tree(&workspace));
        copy(&workspace, &setup.folder(&format!("v{number}")));
    }
    (server, trees)
}

async fn ids(server: &Server) -> Vec<String> {
    let list = server.rest.read("/files/versions?limit=200").await;
    let ids =
        list["versions"].as_array().expect("a list").iter().map(|it| it["id"].as_str().expect("an id").to_owned());
    ids.collect()
}

/// Younger objects are left alone: these are from an hour ago.
fn age(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            age(&entry);
        } else {
            let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
            fs::File::open(&entry).and_then(|file| file.set_modified(an_hour_ago)).expect("a time");
        }
    }
}

/// Bytes of all that versions take in the data directory.
fn size(setup: &Setup) -> usize {
    bytes_of(&setup.data_dir().join("versions")).values().map(|(.., content)| content.len()).sum()
}

/// Starts the server anew, its objects being old, and waits until only these versions are left.
async fn give_up(server: &mut Server, left: &[&str]) {
    age(&server.setup().data_dir().join("versions/objects.git/objects"));
    server.restart().await;
    until("old versions are given up", async || (ids(server).await == left).then_some(())).await;
}

#[tokio::test]
async fn versions_over_their_number_go_with_their_contents() {
    let setup = plain().env("OPENCODE_VERSIONS_KEPT", 3);
    let (mut server, trees) = filled(&setup, 10).await;
    let (before, notes) = (size(&setup), setup.data_dir().join("versions/objects.git/large"));
    assert_eq!(fs::read_dir(&notes).expect("a folder").count(), 1);
    give_up(&mut server, &["v10", "v9", "v8", "v1"]).await;
    let shrunk = async || (size(&setup) + 6 * EACH < before).then_some(());
    until("what only they had is gone", shrunk).await;
    assert_eq!(fs::read_dir(&notes).expect("a folder").count(), 0, "also what was only noted of them");
    said(command(&setup.data_dir().join("versions/objects.git")).args(["fsck", "--full", "--strict"]));

    // By name they are told apart from versions that never were.
    for door in [Door::Rest, Door::Grpc, Door::GrpcWeb] {
        let client = server.through(door);
        let asked = [
            client.get_file_changes(json!({"since_version": "v3"})).await,
            client.get_file_changes(json!({"until_version": "v7"})).await,
            client.revert_files(json!({"version": "v2"})).await,
        ];
        for refused in asked.map(|answer| answer.expect_err("it was given up")) {
            assert_eq!(refused.code, "not_found");
            assert!(
                refused.detail.contains("was given up") && refused.detail.contains("/files/versions"),
                "{refused:?}"
            );
        }
        let refused = client.get_file_changes(json!({"since_version": "v11"})).await.expect_err("there is none");
        assert_eq!((refused.code.as_str(), refused.detail.as_str()), ("not_found", "there is no version \"v11\""));
    }

    // Those that stay can be compared and brought back to the byte.
    for number in [1, 8, 9] {
        let folder = setup.folder(&format!("v{number}"));
        check_patch(&server, &format!("v{number}"), &folder, false, &format!("a patch from v{number}")).await;
    }
    for number in [8, 1, 9, 10, 1] {
        let done = server.rest.post("/files/revert", &json!({"version": format!("v{number}")})).await.ok();
        assert_eq!(done["skipped"], json!([]));
        assert_same_tree(&tree(&setup.workspace()), &trees[number - 1], &format!("v{number}"));
    }
}

#[tokio::test]
async fn versions_over_their_bytes_go_by_halves_but_for_the_first_and_the_last() {
    let setup = plain().env("OPENCODE_VERSIONS_BYTES", EACH / 2);
    let (mut server, trees) = filled(&setup, 8).await;
    let before = size(&setup);
    // However little may be kept, where the session began and where it stands can always be told.
    for left in [&["v8", "v7", "v6", "v5", "v1"][..], &["v8", "v7", "v1"], &["v8", "v1"], &["v8", "v1"]] {
        give_up(&mut server, left).await;
    }
    until("what only they had is gone", async || (size(&setup) + 6 * EACH < before).then_some(())).await;
    check_patch(&server, "v1", &setup.folder("v1"), false, "a patch from v1").await;
    for number in [1, 8] {
        let done = server.rest.post("/files/revert", &json!({"version": format!("v{number}")})).await.ok();
        assert_eq!(done["skipped"], json!([]));
        assert_same_tree(&tree(&setup.workspace()), &trees[number - 1], &format!("v{number}"));
    }
}

/// The objects of the user's repository that were taken along stay as long as a version needs one of them.
#[tokio::test]
async fn what_was_taken_along_goes_when_nothing_needs_it() {
    let setup = Setup::new().env("OPENCODE_VERSIONS_KEPT", 2);
    let mut server = setup.start();
    let taken = setup.data_dir().join("versions/taken");
    until("the user's objects are taken along", async || taken.exists().then_some(())).await;
    fs::remove_dir_all(setup.workspace().join(".git")).expect("a repository");
    fs::remove_file(setup.workspace().join("README.md")).expect("a file");
    put(&setup.workspace(), "other.txt", "other\n");
    assert_eq!(server.version().await, "v2");
    put(&setup.workspace(), "other.txt", "another\n");
    assert_eq!(server.version().await, "v3");
    put(&setup.workspace(), "other.txt", "and another\n");
    assert_eq!(server.version().await, "v4");
    give_up(&mut server, &["v4", "v3", "v1"]).await;
    assert!(taken.exists(), "the first version needs it");
    server.rest.post("/session/reset", &json!({})).await.ok();
    put(&setup.workspace(), "other.txt", "one more\n");
    server.version().await;
    server.restart().await;
    until("nothing needs it", async || (!taken.exists()).then_some(())).await;
    said(command(&setup.data_dir().join("versions/objects.git")).args(["fsck", "--full", "--strict"]));
}
