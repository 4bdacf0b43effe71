//! What `nginx -t` says of the state: it refuses what a start would refuse, as far as it can see
//! that, and changes nothing.

use std::fs;
use std::io;
use std::path::Path;

use crate::os::file::{
    FileOwner, Refusal, directory_of, is_too_long, may_write_as, open_to_read, open_to_read_as,
};
use crate::os::lock::Held;
use crate::state::record::format::USE_LOCK;
use crate::state::record::header::{Bad, PidFile};
use crate::state::worker::paged_file::{PagedFile, read_identity};

use super::judge::judge;
use super::path::{PathError, StatePath, check_directory, check_metadata, check_owner, is_missing};

/// Looks at a path as `nginx -t` does; answers what is worth a warning. What may not be looked at
/// is not judged. Nor is the owner, which is only told: another user may start nginx than tests
/// its configuration, and `workers` are who they would be if this one did.
///
/// # Errors
///
/// Why a start would refuse the path.
pub fn check(
    path: &StatePath,
    pid_file: &PidFile,
    workers: Option<FileOwner>,
) -> Result<Option<PathError>, PathError> {
    let Some(file) = path.path() else { return Ok(None) };
    let metadata = match fs::symlink_metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if is_missing(&error) => {
            return match path {
                StatePath::Named(_) if is_too_long(&error) => {
                    Err(PathError::no_directory(file, error))
                }
                // The default falls back to memory where there is no directory.
                StatePath::Named(_) => check_directory(file)
                    .and_then(|()| check_rights(file, directory_of(file), workers))
                    .map(|()| None),
                _ => Ok(None),
            };
        }
        Err(_) => return Ok(None),
    };
    check_metadata(file, &metadata)?;
    if matches!(path, StatePath::Named(_)) {
        check_rights(file, file, workers)?;
    }
    let opened = workers.map_or_else(|| open_to_read(file), |user| open_to_read_as(user, file));
    // What cannot be read is no reason to refuse: a start goes on without the file.
    if let Ok(opened) = opened {
        if let Ok(Some(problem)) = look_into(file, path, &PagedFile::new(opened), pid_file) {
            return Err(problem);
        }
    }
    Ok(workers.and_then(|workers| check_owner(file, &metadata, workers).err()))
}

/// Whether a start as root could open the file, or make it in its directory: `path` is what has to
/// be written to. Another user may start nginx than tests its configuration: who is not root cannot
/// tell, nor can root of what a third user has.
fn check_rights(file: &Path, path: &Path, workers: Option<FileOwner>) -> Result<(), PathError> {
    let Some(workers) = workers else { return Ok(()) };
    if fs::metadata(path).is_ok_and(|metadata| check_owner(file, &metadata, workers).is_err()) {
        return Ok(());
    }
    match may_write_as(workers, path) {
        Err(error) if Refusal::of(&error) == Some(Refusal::NotPermitted) => {
            Err(PathError::not_permitted(file, error))
        }
        _ => Ok(()),
    }
}

fn look_into(
    file: &Path,
    path: &StatePath,
    pages: &PagedFile,
    pid_file: &PidFile,
) -> io::Result<Option<PathError>> {
    match path {
        StatePath::Named(_) => {
            let Err(bad) = read_identity(pages)? else { return Ok(None) };
            let is_foreign = judge(pages, bad)? == Bad::Foreign;
            Ok(is_foreign.then(|| PathError::foreign_content(file)))
        }
        StatePath::Default(_) if pages.held_at(USE_LOCK)? == Held::Elsewhere => {
            let user = read_identity(pages)?.ok().map(|identity| identity.pid_file);
            let other = user.filter(|user| user != pid_file);
            Ok(other.map(|other| PathError::in_use(file, other)))
        }
        _ => Ok(None),
    }
}
