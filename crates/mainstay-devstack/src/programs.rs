//! Where the server programs are on this machine, or what to install.

use std::{
    env, fmt, fs,
    path::{self, Path, PathBuf},
};

/// Holds the paths of all programs that a start needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Programs {
    pub(crate) redis_server: PathBuf,
    pub(crate) redis_sentinel: PathBuf,
    pub(crate) initdb: PathBuf,
    pub(crate) postgres: PathBuf,
    pub(crate) pg_basebackup: PathBuf,
    pub(crate) pgbouncer: PathBuf,
    /// Not a program: what is loaded into one to move its clock.
    pub(crate) libfaketime: PathBuf,
}

/// Lists every missing program at once, with the command that installs them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct MissingPrograms {
    /// Program and the Debian package that brings it.
    pub programs: Vec<(&'static str, &'static str)>,
    /// Service binaries that were not found, and where they were looked for.
    pub binaries: Vec<(String, PathBuf)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) redis: bool,
    pub(crate) postgres: bool,
    pub(crate) pgbouncer: bool,
    pub(crate) libfaketime: bool,
}

impl Programs {
    /// Finds what `wanted` needs; programs that are not wanted keep an empty path.
    pub(crate) fn find(wanted: Wanted, places: &[PathBuf]) -> Result<Self, MissingPrograms> {
        let mut missing = Vec::new();
        let mut find = |on: bool, name: &'static str, package: &'static str| {
            if !on {
                return PathBuf::new();
            }
            find_in(places, name).unwrap_or_else(|| {
                missing.push((name, package));
                PathBuf::new()
            })
        };
        let mut programs = Self {
            redis_server: find(wanted.redis, "redis-server", "redis-server"),
            redis_sentinel: find(wanted.redis, "redis-sentinel", "redis-sentinel"),
            initdb: find(wanted.postgres, "initdb", "postgresql"),
            postgres: find(wanted.postgres, "postgres", "postgresql"),
            pg_basebackup: find(wanted.postgres, "pg_basebackup", "postgresql"),
            pgbouncer: find(wanted.pgbouncer, "pgbouncer", "pgbouncer"),
            libfaketime: PathBuf::new(),
        };
        if wanted.libfaketime {
            match find_library(Path::new("/usr/lib")) {
                Some(path) => programs.libfaketime = path,
                None => missing.push(("libfaketime", "libfaketime")),
            }
        }
        if missing.is_empty() {
            Ok(programs)
        } else {
            Err(MissingPrograms { programs: missing, binaries: Vec::new() })
        }
    }
}

/// Lists the directories to look in: PATH, the places of system daemons, Debian's and Homebrew's PostgreSQL.
pub(crate) fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    places.extend(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin", "/usr/local/bin"].map(PathBuf::from));
    // The versioned directories come first: a wrapper of the same name in PATH may choose another version
    // for each program, and server and pg_basebackup must match.
    let mut versioned = versioned_postgres(Path::new("/usr/lib/postgresql"));
    versioned.extend(places);
    versioned
}

/// Lists `<root>/<version>/bin`, newest version first.
fn versioned_postgres(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// Finds a program; the path is absolute, because children start in directories of their own.
pub(crate) fn find_in(places: &[PathBuf], name: &str) -> Option<PathBuf> {
    let mut candidates = places.iter().filter_map(|place| path::absolute(place.join(name)).ok());
    candidates.find(|path| is_executable(path))
}

/// Finds libfaketime below `<root>/<architecture>`, where Debian keeps it.
fn find_library(root: &Path) -> Option<PathBuf> {
    let places = fs::read_dir(root).ok()?.filter_map(Result::ok);
    places.map(|place| place.path().join("faketime/libfaketime.so.1")).find(|path| path.is_file())
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

impl fmt::Display for MissingPrograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.programs.is_empty() {
            let names: Vec<_> = self.programs.iter().map(|(name, _)| *name).collect();
            write!(
                f,
                "missing programs: {}; install them with `{}`",
                names.join(", "),
                self.install_command()
            )?;
        }
        if !self.binaries.is_empty() {
            if !self.programs.is_empty() {
                write!(f, "; ")?;
            }
            let names: Vec<_> = self.binaries.iter().map(|(name, _)| name.as_str()).collect();
            let packages: Vec<_> = names.iter().map(|name| format!("-p {name}")).collect();
            write!(
                f,
                "missing service binaries in {}: {}; build them with `cargo build {}`",
                self.binaries[0].1.display(),
                names.join(", "),
                packages.join(" ")
            )?;
        }
        Ok(())
    }
}

impl MissingPrograms {
    fn install_command(&self) -> String {
        let mut packages: Vec<&str> = Vec::new();
        for (_, package) in &self.programs {
            let package = match (cfg!(target_os = "macos"), *package) {
                (true, "redis-server" | "redis-sentinel") => "redis",
                (_, package) => package,
            };
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
        let installer = if cfg!(target_os = "macos") { "brew install" } else { "apt-get install -y" };
        format!("{installer} {}", packages.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wanted = Wanted { redis: true, postgres: true, pgbouncer: true, libfaketime: false };

    #[test]
    fn one_error_lists_all_missing_programs_and_the_command() {
        let error = Programs::find(ALL, &[PathBuf::from("/nonexistent")]).unwrap_err().to_string();
        for name in ["redis-server", "redis-sentinel", "initdb", "pg_basebackup", "pgbouncer"] {
            assert!(error.contains(name), "{error}");
        }
        #[cfg(not(target_os = "macos"))]
        assert!(
            error.ends_with("`apt-get install -y redis-server redis-sentinel postgresql pgbouncer`"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_wanted_is_not_missed() {
        let nothing = Wanted { redis: false, postgres: false, pgbouncer: false, libfaketime: false };
        assert!(Programs::find(nothing, &[]).is_ok());
    }

    #[test]
    fn program_in_a_relative_place_is_found_by_its_absolute_path() {
        use std::os::unix::fs::PermissionsExt;
        let here = tempfile::tempdir_in(".").unwrap();
        let program = here.path().join("server");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let place = PathBuf::from(here.path().file_name().unwrap());
        let found = find_in(&[place], "server").unwrap();
        assert!(found.is_absolute() && found.is_file(), "{}", found.display());
    }

    #[test]
    fn the_library_is_found_whatever_the_architecture() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(find_library(root.path()), None);
        let place = root.path().join("aarch64-linux-gnu/faketime");
        fs::create_dir_all(&place).unwrap();
        fs::create_dir(root.path().join("other")).unwrap();
        fs::write(place.join("libfaketime.so.1"), "").unwrap();
        assert_eq!(find_library(root.path()), Some(place.join("libfaketime.so.1")));
    }

    #[test]
    fn newest_versioned_directory_comes_first_by_number() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "not-a-version", "14"] {
            let bin = root.path().join(version).join("bin");
            fs::create_dir_all(&bin).unwrap();
            fs::write(bin.join("postgres"), "").unwrap();
            fs::set_permissions(bin.join("postgres"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let found = versioned_postgres(root.path());
        let versions: Vec<_> =
            found.iter().map(|bin| bin.parent().unwrap().file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(versions, ["15", "14", "9"]);
    }
}
