//! The control group around all containers of a pod, where the pod as a whole has limits.
//!
//! The engine makes it, as the parent of its containers' own, and can be told no limits for it. So the node
//! writes them into the kernel's files itself: it may where it is root on the engine's machine. Elsewhere each
//! container has the pod's limits as its own, which bounds each of them and not what they use together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where Linux has its control groups.
const ROOT: &str = "/sys/fs/cgroup";
const PERIOD_MICROS: u64 = 100_000;
/// The kernel's least.
const LEAST_QUOTA_MICROS: u64 = 1_000;

/// The group of a pod as the engine is told of it; `systemd`: as its driver wants it named.
pub fn of_pod(owner: &str, uid: &str, systemd: bool) -> String {
    match systemd {
        // A dash stands for a slash there.
        true => format!("coracle{owner}-pod{}.slice", uid.replace('-', "_")),
        false => format!("/{}/pod{uid}", of_node(owner)),
    }
}

/// The group around those of a node's pods.
fn of_node(owner: &str) -> String {
    format!("coracle-{owner}")
}

/// Limits the group `group` that the process is in one below.
///
/// # Errors
/// If this process may not, or does not see the engine's processes.
pub fn limit(pid: i64, group: &str, memory: Option<u64>, cpu_millis: Option<u64>) -> io::Result<()> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let name = group.rsplit('/').next().unwrap_or(group);
    let find = |controller: &str| {
        let found = place(&text, controller, name).ok_or_else(|| {
            io::Error::other(format!("process {pid} of this machine is none of the engine's in {name}"))
        })?;
        Ok::<_, io::Error>(Place { dir: Path::new(ROOT).join(found.dir), ..found })
    };
    if let Some(bytes) = memory {
        let place = find("memory")?;
        if place.unified {
            fs::write(place.dir.join("memory.max"), bytes.to_string())?;
            // Without swap there is none to limit.
            let _ = fs::write(place.dir.join("memory.swap.max"), "0");
        } else {
            fs::write(place.dir.join("memory.limit_in_bytes"), bytes.to_string())?;
            let _ = fs::write(place.dir.join("memory.memsw.limit_in_bytes"), bytes.to_string());
        }
    }
    if let Some(millis) = cpu_millis {
        let place = find("cpu")?;
        let quota = (millis * PERIOD_MICROS / 1000).max(LEAST_QUOTA_MICROS);
        if place.unified {
            fs::write(place.dir.join("cpu.max"), format!("{quota} {PERIOD_MICROS}"))?;
        } else {
            fs::write(place.dir.join("cpu.cfs_period_us"), PERIOD_MICROS.to_string())?;
            fs::write(place.dir.join("cpu.cfs_quota_us"), quota.to_string())?;
        }
    }
    Ok(())
}

/// Where a group's files are, below the root of them all.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    dir: PathBuf,
    /// All controllers in one tree: the second version.
    unified: bool,
}

/// The group above the process's own, if it is called `name`; `text` is the process's `cgroup` file.
fn place(text: &str, controller: &str, name: &str) -> Option<Place> {
    let mut lines = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        Some((parts.next()?, parts.next()?, parts.next()?))
    });
    let (controllers, path) = lines.find_map(|(_, controllers, path)| {
        let has = controllers.is_empty() || controllers.split(',').any(|one| one == controller);
        has.then_some((controllers, path))
    })?;
    let above = Path::new(path).parent().filter(|above| above.file_name().is_some_and(|file| file == name))?;
    let above = above.strip_prefix("/").ok()?;
    Some(Place { dir: Path::new(controllers).join(above), unified: controllers.is_empty() })
}

/// Removes what is left of a pod's group. The engine removes those of containers alone.
pub fn remove(owner: &str, uid: &str) {
    let groups = [of_pod(owner, uid, false), of_node(owner)];
    let trees = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
    for tree in [PathBuf::from(ROOT)].into_iter().chain(trees) {
        for group in &groups {
            // One with something in it stays.
            let _ = fs::remove_dir(tree.join(group.trim_start_matches('/')));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_as_each_driver_wants_it() {
        assert_eq!(of_pod("me", "0-1", false), "/coracle-me/pod0-1");
        assert_eq!(of_pod("me", "0-1", true), "coracleme-pod0_1.slice");
    }

    #[test]
    fn the_group_is_found_in_both_versions() {
        let first = "5:cpu,cpuacct:/coracle-me/podu/5f\n4:memory:/coracle-me/podu/5f\n0::/\n";
        let found = place(first, "cpu", "podu").expect("found");
        assert_eq!(found, Place { dir: "cpu,cpuacct/coracle-me/podu".into(), unified: false });
        let second = "0::/coracleme.slice/coracleme-podu.slice/docker-5f.scope\n";
        let found = place(second, "memory", "coracleme-podu.slice").expect("found");
        assert_eq!(found, Place { dir: "coracleme.slice/coracleme-podu.slice".into(), unified: true });
        assert_eq!(place(second, "memory", "podu"), None, "somebody else's process");
    }
}
