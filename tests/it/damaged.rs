//! What cannot be told of is named, and keeps nothing else from being told: damaged objects, submodules, names that
//! `git apply` refuses. And a revert that is killed leaves nothing of its own behind.

use std::{fs, path::Path};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    baselines::{plain, put},
    support::{
        Door, Setup, Value,
        repo::{git, said},
        until,
    },
    through_every_door,
};

through_every_door! {
    a_damaged_object_is_named_and_no_other_file;
    submodules_are_named_since_a_revision;
    names_that_git_refuses_are_left_out_of_a_patch;
}

fn told(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    list.filter(|out| out["reason"] != "ignored").map(|out| (text(&out["path"]), text(&out["reason"]))).collect()
}

fn apply(patch: &[u8], folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let file = folder.with_extension("patch");
    fs::write(&file, patch).expect("a file");
    said(std::process::Command::new("git").arg("apply").arg(file).current_dir(folder));
}

async fn a_damaged_object_is_named_and_no_other_file(door: Door) {
    let setup = Setup::new();
    let workspace = setup.workspace();
    put(&workspace, "a", "one\n");
    put(&workspace, "b", "one and two\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "Both"]);
    let server = setup.start();
    server.version().await;
    let id = String::from_utf8(git(&workspace, &["rev-parse", "HEAD:a"])).expect("an id");
    let (folder, name) = id.trim().split_at(2);
    let object = workspace.join(".git/objects").join(folder).join(name);
    fs::remove_file(&object).expect("an object");
    fs::write(&object, "junk").expect("a file");
    put(&workspace, "a", "other\n");
    put(&workspace, "b", "others\n");
    let client = server.through(door);
    let told_of = client.get_file_changes(json!({})).await.expect("changes").body;
    assert_eq!((told(&told_of["left_out"]), &told_of["complete"]), (vec![("a".into(), "gone".into())], &json!(false)));
    let [a, b] = told_of["changes"].as_array().expect("a list").as_slice() else { panic!("{told_of}") };
    assert_eq!((&a["path"], &a["truncated"], a.get("diff")), (&json!("a"), &json!(true), None));
    assert!(b["diff"].as_str().is_some_and(|diff| diff.contains("-one and two\n+others\n")), "{b}");
    let refused = client.get_patch(json!({})).await.expect_err("not all is there");
    assert!(refused.code == "patch_incomplete" && refused.detail.contains("a (gone)"), "{refused:?}");
    let patch = String::from_utf8(client.get_patch(json!({"partial": true})).await.expect("a part")).expect("UTF-8");
    assert!(patch.contains("b/b") && !patch.contains("b/a"), "{patch}");
}

async fn submodules_are_named_since_a_revision(door: Door) {
    let setup = Setup::new();
    let (workspace, library) = (setup.workspace(), setup.folder("library"));
    put(&library, "lib.c", "int x;\n");
    git(&library, &["init", "-q"]);
    git(&library, &["add", "-A"]);
    git(&library, &["commit", "-qm", "First"]);
    git(
        &workspace,
        &["-c", "protocol.file.allow=always", "submodule", "add", "-q", library.to_str().expect("UTF-8"), "sub"],
    );
    git(&workspace, &["commit", "-qm", "A submodule"]);
    let server = setup.start();
    let client = server.through(door);
    let first = server.version().await;
    put(&workspace, "sub/lib.c", "changed\n");
    put(&workspace, "beside", "new\n");
    let since = |since: &str| json!({"since_version": since});
    let by_git = client.get_file_changes(since("git:HEAD")).await.expect("changes").body;
    assert_eq!(told(&by_git["left_out"]), [("sub".into(), "submodule".into())]);
    assert_eq!(by_git["complete"], false);
    assert_eq!(by_git["changes"].as_array().expect("a list").len(), 1, "{by_git}");
    assert_eq!(client.get_patch(since("git:HEAD")).await.expect_err("a part is unknown").code, "patch_incomplete");
    let own = client.get_file_changes(since(&first)).await.expect("changes").body;
    assert_eq!((told(&own["left_out"]), &own["complete"]), (Vec::new(), &json!(true)));
    assert_eq!(own["changes"].as_array().expect("a list").len(), 2, "{own}");
}

async fn names_that_git_refuses_are_left_out_of_a_patch(door: Door) {
    let setup = plain();
    let server = setup.start();
    server.version().await;
    let workspace = setup.workspace();
    put(&workspace, "good", "1\n");
    for name in ["git~1", "deep/GIT~1", ".git ", ".git.", ".Git::$INDEX_ALLOCATION/x", "a\\.git\\x", ".git. .:x"] {
        put(&workspace, name, "1\n");
    }
    for name in [".gitx", "git~12", "git~", ".gitignored", "a.git", ".git .x"] {
        put(&workspace, name, "1\n");
    }
    let client = server.through(door);
    let refused = client.get_patch(json!({})).await.expect_err("git would refuse it");
    assert!(refused.code == "patch_incomplete" && refused.detail.contains("(name)"), "{refused:?}");
    let patch = client.get_patch(json!({"partial": true})).await.expect("a part");
    let copy = setup.folder("copy");
    apply(&patch, &copy);
    let mut names: Vec<_> =
        fs::read_dir(&copy).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, [".git .x", ".gitignored", ".gitx", "a.git", "git~", "git~12", "good"]);
}

#[tokio::test]
async fn a_revert_that_is_killed_leaves_nothing_of_its_own() {
    let setup = plain();
    let workspace = setup.workspace();
    let write = |what: &str| {
        for file in 0..200 {
            put(&workspace, &format!("f{file}"), format!("{what} {file}\n"));
        }
    };
    write("first");
    let mut server = setup.start();
    let first = server.version().await;
    for round in 0..6 {
        write("second");
        server.version().await;
        let request = server.rest.request("POST", "/files/revert").json(&json!({"version": first}));
        let reverting = tokio::spawn(request.send());
        // Files come back in the order of their names: each round is killed further on.
        let mut names: Vec<_> = (0..200).map(|file| format!("f{file}")).collect();
        names.sort();
        let middle = workspace.join(&names[round * 25]);
        until("the middle of it", async || {
            fs::read_to_string(&middle).expect("a file").starts_with("first ").then_some(())
        })
        .await;
        server.crash_and_restart();
        let _ = reverting.await.expect("no panic");
        server.version().await;
        let names = fs::read_dir(&workspace).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let strange: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert_eq!(strange, [""; 0], "round {round}");
    }
}

/// Files that a killed server of this workspace was about to put in place go; a user's own of such a name stays.
#[tokio::test]
async fn what_a_killed_server_left_is_removed_and_nothing_else() {
    let setup = plain();
    let root = setup.workspace().canonicalize().expect("a folder");
    let mut hash = Sha256::new();
    for path in [setup.data_dir(), root] {
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update([0]);
    }
    let owner: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let left = put(&setup.workspace(), &format!("deep/.opencode-{owner}-01234567-0123456789abcdef.tmp"), "half\n");
    let kept = put(&setup.workspace(), "deep/.opencode-0123456789ab-01234567-0123456789abcdef.tmp", "whole\n");
    let server = setup.start();
    let first = server.version().await;
    assert!(!left.exists() && kept.exists());
    fs::remove_file(&kept).expect("a file");
    let name = "deep/.opencode-0123456789ab-01234567-0123456789abcdef.tmp".to_owned();
    assert_eq!(server.changed_since(&first).await, [(name, "deleted".to_owned())], "it was in the version");
}
