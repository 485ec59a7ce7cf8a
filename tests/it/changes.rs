//! What changed: patches that git takes, and a tree that is git's own, whatever was done to the workspace.

use std::fs;

use serde_json::json;

use crate::support::{
    Door, Server, Setup, Value,
    edits::{Dice, change},
    repo::{self, assert_same_tree, copy, tree, tree_id},
};

/// The patch from `since` until now, put to a copy of what was there then.
pub async fn check_patch(server: &Server, since: &str, before: &std::path::Path, renames: bool, what: &str) {
    let query = json!({"since_version": since, "renames": renames});
    let patch = server.through(Door::Rest).get_patch(query).await.expect("a patch");
    if !patch.is_empty() {
        let file = before.with_extension("patch");
        fs::write(&file, &patch).expect("a file");
        let mut apply = repo::command(before);
        let output = apply.args(["apply", "--whitespace=nowarn"]).arg(&file).output().expect("git runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {said}\n{}", String::from_utf8_lossy(&patch));
    }
    assert_same_tree(&tree(before), &tree(&server.workspace()), what);
}

/// The version's tree has to be the one that git makes of the workspace; says what differs.
#[track_caller]
pub fn assert_same_as_git(server: &Server, version: &Value, what: &str) {
    let scratch = server.setup().folder("scratch");
    let expected = tree_id(&server.workspace(), &scratch);
    let found = version["tree"].as_str().expect("an id");
    if found != expected {
        let mut command = repo::command(&server.setup().data_dir().join("versions/objects.git"));
        command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", scratch.join("objects"));
        let differs = repo::said(command.args(["diff-tree", "-r", &expected, found]));
        panic!("{what}: git has another tree:\n{}", String::from_utf8_lossy(&differs));
    }
}

/// Rounds of changes; after each the tree is git's and the patch makes the old into the new.
async fn rounds(seeds: std::ops::Range<u64>) {
    let setup = Setup::new();
    let outside = setup.folder("outside");
    fs::create_dir(&outside).expect("a folder");
    let server = setup.start();
    let mut since = server.version().await;
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let before = setup.folder(&format!("before{seed}"));
        copy(&server.workspace(), &before);
        fs::remove_dir_all(before.join(".git")).expect("a folder");
        // Git knows of no empty folder, and makes no room where there is one.
        repo::said(std::process::Command::new("find").arg(&before).args(["-type", "d", "-empty", "-delete"]));
        fs::create_dir_all(&before).expect("a folder");
        for _ in 0..1 + dice.below(25) {
            change(&mut dice, &server.workspace(), &outside);
        }
        let what = format!("seed {seed}");
        let newest = server.newest_version().await;
        assert_same_as_git(&server, &newest, &what);
        check_patch(&server, &since, &before, seed % 2 == 0, &what).await;
        fs::remove_dir_all(before).expect("a folder");
        since = newest["id"].as_str().expect("an id").to_owned();
    }
}

#[tokio::test]
async fn a_patch_put_to_what_was_makes_what_is_1() {
    rounds(0..60).await;
}

#[tokio::test]
async fn a_patch_put_to_what_was_makes_what_is_2() {
    rounds(1000..1060).await;
}
