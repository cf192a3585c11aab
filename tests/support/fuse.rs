//! A real FUSE file system, for what seqsvr does on one.

// Every test file that has this module compiles its own copy, and few use all of it.
#![allow(dead_code)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use super::process::{guarded, spawn, system_program};
use super::server::eventually;

/// A folder that is seen through FUSE; unmounted when dropped.
pub struct Fuse<'a> {
    at: &'a Path,
    program: Child,
}

impl<'a> Fuse<'a> {
    /// Makes `folder` and `at`, where it is seen.
    pub fn mount(folder: &Path, at: &'a Path) -> Self {
        assert!(
            Path::new("/dev/fuse").exists(),
            "THIS TEST NEEDS FUSE, and there is no /dev/fuse: load the kernel's module, or give the container the device and \
             CAP_SYS_ADMIN"
        );
        for folder in [folder, at] {
            fs::create_dir(folder).unwrap();
        }
        let mut bindfs = guarded(system_program("bindfs"));
        bindfs.arg("-f").args([folder, at]);
        let fuse = Self { at, program: spawn(bindfs).expect("bindfs starts") };
        eventually("FUSE is mounted (THIS TEST NEEDS A MOUNT: may this user mount?)", || {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            mounts.contains(&format!(" {} fuse", at.display())).then_some(())
        });
        fuse
    }
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(self.at).status();
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
