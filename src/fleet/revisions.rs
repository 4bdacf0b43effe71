//! What shows that the engine was restored from a copy, or is another one: revisions go back, and the fence with
//! them, or the cluster has another id.

use super::engine::Header;
use super::values::Revision;

/// The newest that is known of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// The cluster; 0 if none has answered.
    pub cluster: u64,
    /// The newest revision that was seen.
    pub revision: Revision,
}

/// What the header of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionSays {
    /// Nothing: its revision is one of those that were seen, or older than a reset.
    Nothing,
    /// Its revision is the newest.
    Newest,
    /// Revisions have gone back.
    WentBack,
    /// Another cluster answers.
    OtherCluster,
    /// It is of the cluster that was there before a reset.
    BeforeReset,
}

/// Looks at the header of an answer to a request that was sent when `seen` was the newest; now that is `newest`.
/// Answers may arrive in another order than they were given, so that what has been seen meanwhile does not
/// count; and where `newest` is smaller, somebody has set it back on purpose.
///
/// A smaller revision alone does not tell: what is written to a copy soon has the revisions that were seen.
/// A snapshot that is restored as etcd's manual says makes a cluster with another id, and so do two clusters
/// behind one name.
pub fn judge_header(header: &Header, seen: Newest, newest: Newest) -> RevisionSays {
    if newest.cluster != 0 && header.cluster != newest.cluster {
        let is_before = header.cluster == seen.cluster;
        return if is_before { RevisionSays::BeforeReset } else { RevisionSays::OtherCluster };
    }
    let is_comparable = seen.cluster == 0 || seen.cluster == header.cluster;
    if is_comparable && header.revision < seen.revision {
        let is_reset = seen.revision > newest.revision;
        return if is_reset { RevisionSays::Nothing } else { RevisionSays::WentBack };
    }
    if header.revision > newest.revision { RevisionSays::Newest } else { RevisionSays::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: u64 = 7;
    const NEW: u64 = 8;

    fn newest(cluster: u64, revision: u64) -> Newest {
        Newest { cluster, revision: Revision(revision) }
    }

    fn judge_of(answer: (u64, u64), seen: (u64, u64), now: (u64, u64)) -> RevisionSays {
        let header = Header { cluster: answer.0, member: 1, revision: Revision(answer.1) };
        judge_header(&header, newest(seen.0, seen.1), newest(now.0, now.1))
    }

    fn judge(revision: u64, seen: u64, now: u64) -> RevisionSays {
        judge_of((OLD, revision), (OLD, seen), (OLD, now))
    }

    #[test]
    fn what_is_smaller_than_what_was_seen_before_it_was_asked_has_gone_back() {
        assert_eq!(judge_of((OLD, 7), (0, 0), (0, 0)), RevisionSays::Newest, "the first");
        assert_eq!(judge(8, 7, 7), RevisionSays::Newest);
        assert_eq!(judge(7, 7, 7), RevisionSays::Nothing);
        assert_eq!(judge(6, 7, 7), RevisionSays::WentBack);
        assert_eq!(judge(6, 7, 9), RevisionSays::WentBack);
    }

    #[test]
    fn answers_may_overtake_each_other() {
        // Sent at 7, answered at 8, and behind it one that was answered at 9.
        assert_eq!(judge(8, 7, 9), RevisionSays::Nothing);
        assert_eq!(judge(7, 7, 9), RevisionSays::Nothing);
    }

    #[test]
    fn what_was_sent_before_a_reset_says_nothing() {
        // It was set back from 900 to 5.
        assert_eq!(judge(5, 900, 5), RevisionSays::Nothing);
        assert_eq!(judge(6, 5, 5), RevisionSays::Newest);
        assert_eq!(judge(4, 5, 5), RevisionSays::WentBack);
    }

    #[test]
    fn another_cluster_is_told_whatever_its_revision() {
        for revision in [1, 700, 900] {
            let at = (NEW, revision);
            assert_eq!(judge_of(at, (OLD, 700), (OLD, 700)), RevisionSays::OtherCluster);
            // Two clusters behind one name: the first answers of both.
            assert_eq!(judge_of(at, (0, 0), (OLD, 700)), RevisionSays::OtherCluster);
        }
    }

    #[test]
    fn what_the_old_cluster_said_does_not_count_after_a_reset() {
        for revision in [699, 700, 900] {
            let answer = judge_of((OLD, revision), (OLD, 700), (NEW, 5));
            assert_eq!(answer, RevisionSays::BeforeReset);
        }
        assert_eq!(judge_of((NEW, 6), (OLD, 700), (NEW, 5)), RevisionSays::Newest);
        assert_eq!(judge_of((NEW, 6), (NEW, 5), (NEW, 5)), RevisionSays::Newest);
        // It has more revisions than the old one had by now.
        assert_eq!(judge_of((NEW, 690), (OLD, 700), (NEW, 710)), RevisionSays::Nothing);
    }
}
