//! Whose path: what may stand at the path of a state file, and what makes it a configuration
//! error.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::os::Escaped;
use crate::os::file::{FileOwner, Refusal, directory_of, metadata, not_a_directory};
use crate::state::record::header::PidFile;
use crate::state::worker::notice::{Action, Failure};

/// Where the state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatePath {
    /// In the file that belongs to one instance, if its directory can be written.
    Default(PathBuf),
    /// In a file that several instances may share.
    Named(PathBuf),
    /// In memory.
    Memory,
}

impl StatePath {
    /// The path, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Default(path) | Self::Named(path) => Some(path),
            Self::Memory => None,
        }
    }
}

/// A configuration error: this path cannot be a state file.
#[derive(Debug)]
pub struct PathError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    SymbolicLink,
    NotRegular,
    Links(u64),
    ForeignOwner { uid: u32, workers: u32 },
    ForeignContent,
    NoDirectory(io::Error),
    NotPermitted(io::Error),
    InUse(PidFile),
    NoMemory(io::Error),
}

impl PathError {
    /// The error of the system call behind it, for nginx to add.
    pub fn errno(&self) -> Option<i32> {
        match &self.problem {
            Problem::NoDirectory(error)
            | Problem::NotPermitted(error)
            | Problem::NoMemory(error) => error.raw_os_error(),
            _ => None,
        }
    }

    fn new(path: &Path, problem: Problem) -> Self {
        Self { path: path.into(), problem }
    }

    /// No memory that all workers could share.
    pub(in crate::state) fn no_memory(error: io::Error) -> Self {
        Self::new(Path::new(""), Problem::NoMemory(error))
    }

    pub(in crate::state) fn in_use(path: &Path, by: PidFile) -> Self {
        Self::new(path, Problem::InUse(by))
    }

    pub(in crate::state) fn no_directory(path: &Path, error: io::Error) -> Self {
        Self::new(path, Problem::NoDirectory(error))
    }

    pub(in crate::state) fn not_permitted(path: &Path, error: io::Error) -> Self {
        Self::new(path, Problem::NotPermitted(error))
    }

    pub(in crate::state) fn foreign_content(path: &Path) -> Self {
        Self::new(path, Problem::ForeignContent)
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = Escaped::of(&self.path);
        if let Problem::NoDirectory(_) | Problem::NotPermitted(_) = self.problem {
            return write!(f, "state file: {} \"{path}\" failed", Action::Open);
        }
        if let Problem::NoMemory(_) = self.problem {
            return write!(f, "{} failed", Action::Map);
        }
        write!(f, "state file \"{path}\" ")?;
        match &self.problem {
            Problem::SymbolicLink => f.write_str("is a symbolic link"),
            Problem::NotRegular => f.write_str("is not a regular file"),
            Problem::Links(links) => write!(f, "has {links} links"),
            Problem::ForeignOwner { uid, workers } => write!(
                f,
                "is owned by user {uid}, neither by root nor by the worker user, give it to user \
                 {workers} with \"chown\""
            ),
            Problem::ForeignContent => f.write_str("is not a state file"),
            Problem::NoDirectory(_) | Problem::NotPermitted(_) | Problem::NoMemory(_) => Ok(()),
            Problem::InUse(by) => {
                write!(f, "is in use by the nginx of \"{by}\", set \"timer_state\"")
            }
        }
    }
}

/// Why a file could not be opened or created.
pub(in crate::state) enum OpenError {
    /// A bad path.
    Path(PathError),
    /// A fault of the system that must not keep nginx from starting.
    Fault(Failure),
}

/// Whether a file could be made at `path`, as far as its directory is there.
pub(in crate::state) fn check_directory(path: &Path) -> Result<(), PathError> {
    match fs::metadata(directory_of(path)) {
        Ok(metadata) if !metadata.is_dir() => {
            let error = not_a_directory();
            Err(PathError::new(path, Problem::NoDirectory(error)))
        }
        Err(error) if is_missing(&error) => Err(PathError::new(path, Problem::NoDirectory(error))),
        _ => Ok(()),
    }
}

/// Whether an open file may be a state file.
pub(in crate::state) fn check_file(
    path: &Path,
    file: &File,
    workers: FileOwner,
) -> Result<(), OpenError> {
    let metadata = metadata(file).map_err(Action::Stat.failed()).map_err(OpenError::Fault)?;
    check_metadata(path, &metadata)
        .and_then(|()| check_owner(path, &metadata, workers))
        .map_err(OpenError::Path)
}

/// Whether what stands at a path may be a state file, whoever has it.
pub(in crate::state) fn check_metadata(path: &Path, metadata: &Metadata) -> Result<(), PathError> {
    let problem = if metadata.is_symlink() {
        Problem::SymbolicLink
    } else if !metadata.is_file() {
        Problem::NotRegular
    } else if metadata.nlink() > 1 {
        Problem::Links(metadata.nlink())
    } else {
        return Ok(());
    };
    Err(PathError::new(path, problem))
}

/// Whether its owner may have a state file of these `workers`.
pub(in crate::state) fn check_owner(
    path: &Path,
    metadata: &Metadata,
    workers: FileOwner,
) -> Result<(), PathError> {
    let (uid, workers) = (metadata.uid(), workers.uid);
    if uid == 0 || uid == workers {
        return Ok(());
    }
    Err(PathError::new(path, Problem::ForeignOwner { uid, workers }))
}

/// Sorts the errors of open(2): the ones of the path, and the faults of the system.
pub(in crate::state) fn open_error(path: &Path, error: io::Error) -> OpenError {
    let problem = match Refusal::of(&error) {
        Some(Refusal::SymbolicLink) => Problem::SymbolicLink,
        Some(Refusal::NotRegular) => Problem::NotRegular,
        Some(Refusal::Missing) => Problem::NoDirectory(error),
        Some(Refusal::NotPermitted) => Problem::NotPermitted(error),
        None => return OpenError::Fault(Action::Open.failed()(error)),
    };
    OpenError::Path(PathError::new(path, problem))
}

impl PathError {
    /// Whether the default path may be given up for memory because of this.
    pub(in crate::state) fn into_unwritable(self) -> Result<io::Error, Self> {
        match self.problem {
            Problem::NoDirectory(error) | Problem::NotPermitted(error) => Ok(error),
            problem => Err(Self { problem, ..self }),
        }
    }
}

pub(in crate::state) fn is_missing(error: &io::Error) -> bool {
    Refusal::of(error) == Some(Refusal::Missing)
}
