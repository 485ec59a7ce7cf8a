//! Git's ignore rules mean the same to listings and to versions, and what is known of the workspace outlives the server.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    changes::assert_same_as_git,
    support::{
        Server, Setup,
        repo::{self, git, said},
    },
};

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, content).expect("a file");
}

/// The files of a listing, which have to be those of a version too.
async fn files(server: &Server, what: &str) -> Vec<String> {
    let listed = server.rest.read("/files?recursive=true").await;
    let listed = listed["files"].as_array().expect("files").iter().filter(|file| file["is_directory"] == json!(false));
    let listed: Vec<_> = listed.map(|file| file["path"].as_str().expect("a path").to_owned()).collect();
    let newest = server.newest_version().await;
    let mut ls = repo::command(&server.setup().data_dir().join("versions/objects.git"));
    let tree = newest["tree"].as_str().expect("an id");
    let versioned = said(ls.args(["ls-tree", "-r", "--name-only", tree]));
    let versioned: Vec<_> = std::str::from_utf8(&versioned).expect("names").lines().collect();
    assert_eq!(versioned, listed, "{what}");
    listed
}

#[tokio::test]
async fn a_repository_below_has_its_own_rules_in_listings_and_in_versions() {
    let setup = Setup::new();
    let nested = setup.workspace().join("deep/nested");
    for (name, content) in [
        ("../../.gitignore", "*.log\n"),
        ("../../x.log", ""),
        ("../y.tmp", ""),
        (".gitignore", "*.tmp\n"),
        ("a.log", ""),
        ("b.tmp", ""),
        ("c/secret", ""),
        ("c/known", ""),
    ] {
        put(&nested.join(name), content);
    }
    git(&nested, &["init", "-q"]);
    put(&nested.join(".git/info/exclude"), "secret\n");
    let own = |names: &[&str]| {
        let mut all = vec![".gitignore".to_owned(), "README.md".to_owned()];
        all.extend(names.iter().map(|name| format!("deep/nested/{name}")));
        all.push("deep/y.tmp".to_owned());
        all
    };
    let mut server = setup.start();
    let first = [".gitignore", "a.log", "c/known"];
    assert_eq!(files(&server, "at first").await, own(&first));
    put(&nested.join(".git/info/exclude"), "known\n");
    assert_eq!(files(&server, "other rules").await, own(&[".gitignore", "a.log", "c/secret"]));
    fs::remove_dir_all(nested.join(".git")).expect("a folder");
    let none = [".gitignore", "c/known", "c/secret"];
    assert_eq!(files(&server, "no repository").await, own(&none));
    server.restart().await;
    assert_eq!(files(&server, "after a restart").await, own(&none));
    git(&nested, &["init", "-q"]);
    put(&nested.join(".git/info/exclude"), "secret\n");
    assert_eq!(files(&server, "a repository again").await, own(&first));
}

/// What is known of the workspace is stored now and then: whatever of it is old after a crash is no harm.
#[tokio::test]
async fn versions_are_right_after_a_stop_and_after_a_crash() {
    let setup = Setup::new();
    let mut server = setup.start();
    let manifest = setup.data_dir().join("versions/manifest");
    for round in 0..6 {
        for file in 0..20 {
            let body = json!({"content": format!("{round} {file}\n"), "create_dirs": true});
            let status = server.rest.send("PUT", &format!("/files/deep/f{file}"), &body).await.status;
            assert!(status < 300, "{status}");
        }
        let since = server.version().await;
        put(&server.workspace().join("deep/f3"), "from outside\n");
        if round % 2 == 0 {
            server.crash_and_restart();
        } else {
            server.restart().await;
            let last = said(repo::command(&server.workspace()).args(["hash-object", "deep/f19"]));
            let last = git2::Oid::from_str(String::from_utf8_lossy(&last).trim()).expect("an id");
            let stored = fs::read(&manifest).expect("a manifest");
            assert!(stored.windows(20).any(|id| id == last.as_bytes()), "it was stored at the end");
        }
        assert_eq!(server.changed_since(&since).await, [("deep/f3".into(), "modified".into())], "round {round}");
        assert_same_as_git(&server, &server.newest_version().await, &format!("round {round}"));
        assert_eq!(server.rest.read("/files/deep/f4").await["content"], Value::from(format!("{round} 4\n")));
    }
}
