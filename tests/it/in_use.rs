//! What is in use is found whatever it is called, and a daemon is found that does not hold the lock yet.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dockpack::error::Error;
use dockpack::store::{InUse, Store, WriteLock};

use crate::support::store::temp_dir;

/// A directory of tests. What was mounted below it is unmounted, and what was started is ended, when it goes.
struct Lab {
    temp: tempfile::TempDir,
    children: Vec<Child>,
}

impl Lab {
    /// Makes a data root `root` with three directories of layers, and the same again at `alias`, by a bind mount.
    fn new(driver: &str) -> Self {
        let lab = Self { temp: temp_dir(), children: Vec::new() };
        let dirs = if driver == "vfs" { "root/vfs/dir" } else { "root/overlay2" };
        for id in ["aa", "bb", "cc"] {
            fs::create_dir_all(lab.at(dirs).join(id).join("diff/etc")).expect("directories");
            if driver == "overlay2" {
                fs::create_dir_all(lab.at("root/overlay2/l")).expect("directories");
                let name = id.to_uppercase();
                fs::write(lab.at(dirs).join(id).join("link"), &name).expect("a file");
                symlink(format!("../{id}/diff"), lab.at("root/overlay2/l").join(name)).expect("a link");
            }
        }
        for dir in ["alias", "point", "root/volumes", &format!("root/image/{driver}/layerdb/sha256/x")] {
            fs::create_dir_all(lab.at(dir)).expect("directories");
        }
        lab.mount(&["--bind", lab.text("root").as_str(), lab.text("alias").as_str()]);
        lab
    }

    fn at(&self, path: &str) -> PathBuf {
        self.temp.path().join(path)
    }

    fn text(&self, path: &str) -> String {
        self.at(path).to_str().expect("text").to_owned()
    }

    fn mount(&self, arguments: &[&str]) {
        let output = Command::new("mount").args(arguments).current_dir(self.temp.path()).output().expect("mount runs");
        assert!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Mounts an overlay of the directories that these options name, in which `$` is the directory of the test.
    fn overlay(&self, options: &str, directory: &str) {
        let options = options.replace('$', &self.text(""));
        let mut command = Command::new("mount");
        command.args(["-t", "overlay", "-o", &options, "none"]).arg(self.at("point")).current_dir(self.at(directory));
        assert!(command.status().expect("mount runs").success(), "{options}");
    }

    /// Starts something that goes on until the test ends, and says so when it has begun.
    fn start(&mut self, script: &str) -> u32 {
        let begun = self.at(&format!("begun-{}", self.children.len()));
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("{script}\ntouch {}\nexec sleep 1000", begun.display())]);
        command.current_dir(self.temp.path()).stdin(Stdio::null());
        self.children.push(command.spawn().expect("sh runs"));
        let end = Instant::now() + Duration::from_secs(20);
        while !begun.exists() {
            assert!(Instant::now() < end, "{script}");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.children.last().expect("one").id()
    }

    fn in_use(&self, root: &str) -> InUse {
        Store::open(&self.at(root), None).expect("opens").in_use()
    }

    /// Fails where by any of its names anything else of the store is in use than this.
    #[track_caller]
    fn assert_used(&self, used: &[&str]) {
        for root in ["root", "alias"] {
            self.assert_used_of(root, used);
        }
    }

    /// As [`Lab::assert_used`], by one name. Of directories that it does not have it is not asked: a container of another
    /// test may have some mounted, by a path of which it cannot be told where it leads.
    #[track_caller]
    fn assert_used_of(&self, root: &str, used: &[&str]) {
        let found = self.in_use(root);
        let dirs = if self.at("root/vfs/dir").exists() { "vfs/dir" } else { "overlay2" };
        let all = ["aa", "bb", "cc", "moved"].map(|id| format!("{dirs}/{id}"));
        let all: Vec<&str> = all.iter().map(String::as_str).filter(|path| found.of(path).is_some()).collect();
        assert_eq!(all, used, "{root}: {found:?}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for point in ["point", "alias"] {
            let _ = Command::new("umount").arg("-l").arg(self.at(point)).stderr(Stdio::null()).status();
        }
    }
}

#[test]
fn overlays_by_whatever_path_they_were_made() {
    for (options, directory, used) in [
        ("lowerdir=$/root/overlay2/l/AA:$/root/overlay2/cc/diff", "", &["overlay2/aa", "overlay2/cc"][..]),
        ("lowerdir=$/alias/overlay2/l/AA:$/alias/overlay2/cc/diff", "", &["overlay2/aa", "overlay2/cc"]),
        ("lowerdir=$/other/overlay2/l/AA:$/other/overlay2/cc/diff", "", &["overlay2/aa", "overlay2/cc"]),
        ("lowerdir=$/link/aa/diff:$/link/l/BB", "", &["overlay2/aa", "overlay2/bb"]),
        ("lowerdir=l/AA:l/BB", "root/overlay2", &["overlay2/aa", "overlay2/bb"]),
        ("lowerdir=aa/diff:cc/diff/etc", "alias/overlay2", &["overlay2/aa", "overlay2/cc"]),
        ("lowerdir=$/point,upperdir=$/root/overlay2/bb/diff,workdir=$/root/overlay2/bb/work", "", &["overlay2/bb"]),
    ] {
        let lab = Lab::new("overlay2");
        symlink("root/overlay2", lab.at("link")).expect("a link");
        fs::create_dir(lab.at("other")).expect("a directory");
        fs::create_dir(lab.at("root/overlay2/bb/work")).expect("a directory");
        lab.mount(&["--bind", "root", "other"]);
        lab.assert_used(&[]);
        lab.overlay(options, directory);
        // The name by which it was made need not be there any more.
        assert!(Command::new("umount").arg(lab.at("other")).status().expect("umount runs").success());
        lab.assert_used(used);
        // Of a copy nothing is in use, though all names are the same.
        let copied = Command::new("cp").arg("-a").arg(lab.at("root")).arg(lab.at("copy")).status().expect("cp runs");
        assert!(copied.success());
        if !options.contains("other") && options.contains('$') {
            lab.assert_used_of("copy", &[]);
        }
    }
}

/// What lies below what is in use, as its own file says, is in use; short names need not be there any more.
#[test]
fn what_a_directory_says_of_those_below() {
    let lab = Lab::new("overlay2");
    fs::write(lab.at("root/overlay2/cc/lower"), "l/BB:l/AA").expect("a file");
    fs::create_dir(lab.at("root/overlay2/cc/merged")).expect("a directory");
    fs::remove_file(lab.at("root/overlay2/l/BB")).expect("is removed");
    // As fuse-overlayfs is seen: a mount that does not tell what it is made of.
    lab.mount(&["-t", "tmpfs", "none", &lab.text("root/overlay2/cc/merged")]);
    let all = ["overlay2/aa", "overlay2/bb", "overlay2/cc"];
    let found = ["root", "alias"].map(|root| {
        let found = lab.in_use(root);
        all.into_iter().filter(|path| found.of(path).is_some()).collect::<Vec<_>>()
    });
    assert!(Command::new("umount").arg(lab.at("root/overlay2/cc/merged")).status().expect("umount runs").success());
    assert_eq!(found, [all, all]);
    lab.assert_used(&[]);
}

/// Short names of another store, in a mount that does not tell of which: whoever says no name has none of them.
#[test]
fn a_directory_in_the_place_of_a_link_says_no_name() {
    let lab = Lab::new("overlay2");
    for name in ["YY", "ZZ"] {
        fs::create_dir_all(lab.at("other/overlay2/l").join(name)).expect("directories");
    }
    fs::remove_file(lab.at("root/overlay2/cc/link")).expect("is removed");
    fs::create_dir(lab.at("root/overlay2/cc/link")).expect("a directory");
    lab.overlay("lowerdir=l/YY:l/ZZ", "other/overlay2");
    lab.assert_used(&[]);
}

/// Trees that are mounted as they are: by another name of the store, in a mount name space of their own, and after they
/// were renamed.
#[test]
fn trees_that_are_mounted() {
    let lab = Lab::new("vfs");
    lab.mount(&["--bind", "alias/vfs/dir/aa", "point"]);
    lab.assert_used(&["vfs/dir/aa"]);
    fs::rename(lab.at("root/vfs/dir/aa"), lab.at("root/vfs/dir/moved")).expect("is renamed");
    lab.assert_used(&["vfs/dir/moved"]);
    assert!(Command::new("umount").arg(lab.at("point")).status().expect("umount runs").success());
    lab.assert_used(&[]);

    let mut lab = Lab::new("vfs");
    let script = "unshare --mount sh -ec 'mount --bind alias/vfs/dir/bb/diff point; touch inner; exec sleep 1000' &\n\
        while [ ! -e inner ]; do sleep 0.01; done";
    lab.start(script);
    lab.assert_used(&["vfs/dir/bb"]);
    let inner = Command::new("pgrep").arg("-P").arg(lab.children[0].id().to_string()).output().expect("pgrep runs");
    let pid = String::from_utf8(inner.stdout).expect("text").lines().next().expect("a child").to_owned();
    assert!(Command::new("kill").arg(pid).status().expect("kill runs").success());
    std::thread::sleep(Duration::from_millis(100));
    lab.assert_used(&[]);
}

/// A process that works in a layer, and one that has it for its root directory and so sees no other mount.
#[test]
fn what_processes_work_in() {
    let mut lab = Lab::new("vfs");
    lab.start("cd alias/vfs/dir/aa/diff/etc");
    lab.assert_used(&["vfs/dir/aa"]);
    let bin = lab.at("root/vfs/dir/cc/sleep");
    fs::copy("/bin/busybox", &bin).expect("a static program");
    let mut command = Command::new("chroot");
    command.arg(lab.at("root/vfs/dir/cc")).args(["/sleep", "1000"]).arg0("chroot").stdin(Stdio::null());
    lab.children.push(command.spawn().expect("chroot runs"));
    std::thread::sleep(Duration::from_millis(300));
    lab.assert_used(&["vfs/dir/aa", "vfs/dir/cc"]);
    fs::rename(lab.at("root/vfs/dir/cc"), lab.at("root/vfs/dir/moved")).expect("is renamed");
    lab.assert_used(&["vfs/dir/aa", "vfs/dir/moved"]);
}

/// Starts something that is called `dockerd`: `busybox sh` under its name, with this open.
fn fake_daemon(lab: &mut Lab, arguments: &[&str], open: Option<&Path>) -> u32 {
    let program = lab.at("dockerd");
    if !program.exists() {
        fs::copy("/bin/busybox", &program).expect("a static program");
    }
    let stdin = open.map_or_else(Stdio::null, |path| fs::File::open(path).expect("opens").into());
    let mut command = Command::new(program);
    command.arg0("sh").args(["-c", "while :; do sleep 0.2 </dev/null; done", "dockerd"]).args(arguments).stdin(stdin);
    lab.children.push(command.spawn().expect("it runs"));
    let pid = lab.children.last().expect("one").id();
    let end = Instant::now() + Duration::from_secs(20);
    while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() != "dockerd\n" {
        assert!(Instant::now() < end, "it does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    pid
}

#[track_caller]
fn assert_held(lab: &Lab, pid: Option<u32>) {
    let name = pid.map(|pid| format!("dockerd (pid {pid})"));
    for root in ["root", "alias"] {
        let store = Store::open(&lab.at(root), None).expect("opens");
        assert_eq!(WriteLock::holder(&store), name, "{root}");
        match (WriteLock::take(&store), &name) {
            (Ok(lock), None) => lock.abandon().expect("lets go"),
            (Err(Error::InUse { holder, .. }), Some(_)) => assert_eq!(holder, name, "{root}"),
            (taken, _) => panic!("{root}: {taken:?}, and {name:?}"),
        }
    }
}

impl Lab {
    fn end_last(&mut self) {
        let mut child = self.children.pop().expect("one");
        child.kill().expect("is ended");
        child.wait().expect("has ended");
    }
}

/// A dockerd that has not locked anything yet, told by what it has open and by what it was told.
#[test]
fn a_slow_daemon() {
    let mut lab = Lab::new("overlay2");
    assert_held(&lab, None);
    let open = lab.at("alias/image/overlay2/layerdb");
    let pid = fake_daemon(&mut lab, &[], Some(&open));
    assert_held(&lab, Some(pid));
    lab.end_last();
    assert_held(&lab, None);
    // What lies in a volume or a layer is open in a container.
    fs::create_dir_all(lab.at("root/volumes/v/_data")).expect("directories");
    for inner in ["root/volumes/v/_data", "root/overlay2/aa/diff/etc", "point"] {
        let open = lab.at(inner);
        fake_daemon(&mut lab, &[], Some(&open));
        assert_held(&lab, None);
        lab.end_last();
    }
    let config = lab.text("daemon.json");
    fs::write(&config, format!(r#"{{"data-root": "{}"}}"#, lab.text("alias"))).expect("a file");
    symlink("alias", lab.at("link")).expect("a link");
    let (root, link) = (lab.text("root"), lab.text("link"));
    for (arguments, is_ours) in [
        (vec!["--data-root", &root], true),
        (vec![&format!("--data-root={link}")], true),
        (vec!["--graph", &link], true),
        (vec!["-g", &root], true),
        (vec![&format!("-g{root}")], true),
        (vec!["--config-file", &config], true),
        (vec![&format!("--config-file={config}"), "--data-root", "/elsewhere"], false),
        (vec!["--data-root", "/"], false),
        (vec![], false),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(|argument| *argument as &str).collect();
        let pid = fake_daemon(&mut lab, &arguments, None);
        assert_held(&lab, is_ours.then_some(pid));
        lab.end_last();
    }
}
