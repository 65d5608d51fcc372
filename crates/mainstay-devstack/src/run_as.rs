//! Which user runs the servers that refuse to be root.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use crate::Error;

/// Names the unprivileged user that PostgreSQL and PgBouncer drop to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl RunAs {
    /// Chooses whom to drop to: nobody needs to drop when we are an ordinary user.
    pub(crate) fn choose() -> Result<Option<Self>, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").map_err(Error::io("read /etc/passwd"))?;
        ["postgres", "_postgres", "nobody"]
            .into_iter()
            .find_map(|user| find_user(&passwd, user))
            .map(Some)
            .ok_or(Error::NoUnprivilegedUser)
    }

    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }
}

/// Finds the first ancestor of `dir` that users other than its owner cannot enter.
pub(crate) fn first_closed_ancestor(dir: &Path) -> Option<PathBuf> {
    dir.ancestors()
        .filter(|ancestor| {
            fs::metadata(ancestor).is_ok_and(|meta| meta.is_dir() && meta.permissions().mode() & 0o001 == 0)
        })
        .last()
        .map(Path::to_path_buf)
}

fn find_user(passwd: &str, user: &str) -> Option<RunAs> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == user).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some(RunAs { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_found_by_exact_name_and_is_never_root() {
        let passwd =
            "root:x:0:0::/:/bin/sh\npostgres2:x:9:9::/:/x\npostgres:x:101:104:,,,:/var/lib:/bin/bash\n";
        assert_eq!(find_user(passwd, "postgres"), Some(RunAs { uid: 101, gid: 104 }));
        assert_eq!(find_user(passwd, "root"), None);
        assert_eq!(find_user(passwd, "nobody"), None);
    }

    #[test]
    fn outermost_closed_ancestor_is_named() {
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let closed = base.path().join("closed");
        let inner = closed.join("inner");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(first_closed_ancestor(&inner), None);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(first_closed_ancestor(&inner), Some(closed));
    }
}
