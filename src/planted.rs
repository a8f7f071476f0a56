//! Planted bugs: single rules of the protocol or of the disk format switched off, to prove that the simulator notices.
//!
//! Each is one condition where the rule is kept. Without the feature `planted-bugs`, which no release has, [`on`] is the constant `false`: neither the bugs
//! nor their names are in the binary. The switch belongs to a thread, so bugs are tried side by side. Imports nothing; everything may import it.

/// Defines the bugs, their names and what they break, in one list.
macro_rules! bugs {
    ($($(#[doc = $about:literal])+ $bug:ident,)+) => {
        /// A rule that can be broken.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(feature = "planted-bugs", derive(Debug))]
        pub enum Bug {
            $($(#[doc = $about])+ $bug,)+
        }

        #[cfg(feature = "planted-bugs")]
        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug),+];

            /// The name that reports use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => stringify!($bug),)+
                }
            }

            /// What is broken, and which rule.
            #[must_use]
            pub fn about(self) -> String {
                match self {
                    $(Self::$bug => concat!($($about),+).trim().to_owned(),)+
                }
            }
        }
    };
}

bugs! {
    /// Two f members are a quorum (protocol.md, "Words": quorum).
    QuorumTwoF,
    /// 2f + 1 members are a quorum, whatever n is (protocol.md, "Words": n = 3f + 1 is not assumed).
    QuorumTwoFPlusOne,
    /// Effects run before the records of their step are durable (protocol.md, introduction).
    VoteBeforeRecord,
    /// A view-change carries no prepared certificates (protocol.md, "View change" 3).
    PreparedLeftOut,
    /// Recovery skips prepared certificates (protocol.md, "Messages": Commit is durable as `Prepared`).
    PreparedForgotten,
    /// Recovery skips view-changes (protocol.md, "Messages": ViewChange).
    ViewChangeForgotten,
    /// Recovery skips new-views (protocol.md, "Messages": NewView).
    NewViewForgotten,
    /// Votes of a view that was left count in the next one (protocol.md, "Normal case" 5: views are never mixed).
    MixedViews,
    /// The new view takes the longest list of certificates as it is (protocol.md, "View change" 5: per slot, the highest view).
    HighestTip,
    /// The new view takes the certificate of the lowest view (protocol.md, "View change" 5).
    LowestView,
    /// The new view takes headers that do not continue each other (protocol.md, "View change" 5: the parent).
    ChosenParentUnchecked,
    /// A Commit does not wait for the Commit of the slot before (protocol.md, "Normal case" 4).
    CommitOutOfOrder,
    /// A batch is committed with f + 1 Commits (protocol.md, "Normal case" 5).
    CommittedByFew,
    /// The leader's proposal counts as one more Prepare (protocol.md, "Normal case" 3: a PrePrepare is no vote).
    ProposalCountsAsPrepare,
    /// A follower accepts what is committed already (protocol.md, "Normal case" 3: no id twice).
    DuplicatesAccepted,
    /// A follower accepts another parent and sequence number (protocol.md, "Normal case" 3).
    ParentUnchecked,
    /// A follower accepts another log root (protocol.md, "Normal case" 3).
    RootUnchecked,
    /// A follower accepts a header time that does not advance (protocol.md, "Normal case" 3).
    TimeUnchecked,
    /// A follower accepts a second proposal at one place, and the signer signs it (protocol.md, "Normal case" 3: nothing else was accepted).
    SecondProposalAccepted,
    /// The gate does not compare a body with its header (protocol.md, "Normal case" 3: the body digest).
    BodyUnchecked,
    /// The gate does not check authors' signatures (protocol.md, "Normal case" 3).
    AuthorUnchecked,
    /// The gate does not check who signed a vote (protocol.md, "Messages": Vote).
    VoteUnchecked,
    /// The gate does not check the certificates of batches that are caught up (protocol.md, "Catch-up and gossip").
    CatchUpUnchecked,
    /// The gate does not check the certificate of a stable checkpoint (protocol.md, "Checkpoints").
    StableUnchecked,
    /// The gate does not check the view-changes in a new-view, nor their number (protocol.md, "View change" 4).
    NewViewUnchecked,
    /// The gate and the core take votes for any slot (protocol.md, "Bounds": slots in progress).
    WindowIgnored,
    /// Nothing is dropped below the floor (protocol.md, "Checkpoints").
    NothingPruned,
    /// Votes of two views are taken for a contradiction (protocol.md, "Normal case": evidence).
    ViewsContradict,
    /// A checkpoint is signed before the log is synced (protocol.md, "Checkpoints").
    CheckpointBeforeSync,
    /// A restarted leader proposes in the view it comes back to (protocol.md, "Restart").
    ProposesAfterRestart,
    /// Proposals leave though the new-view of their view is not durable (protocol.md, "Messages": NewView).
    ProposesTooSoon,
    /// A replica takes part in the view it leaves for before its new-view (protocol.md, "View change" 3: it sends no vote).
    EntersWithoutNewView,
    /// A suspect replica votes (protocol.md, "Suspect").
    SuspectVotes,
    /// A replica that forgot its votes rejoins at once (`consensus/rejoin.rs`: the bounds V and S).
    RejoinsAtOnce,
    /// A later start does not read the note of suspicion (protocol.md, "Suspect").
    SuspicionForgotten,
    /// The duplicate table is not rebuilt at a start (protocol.md, "Exactly once").
    DuplicatesForgotten,
    /// Ids are forgotten a generation too soon (protocol.md, "Exactly once": until not_after has passed).
    DuplicatesDroppedEarly,
    /// A rotation of the votes loses the own view-change (store-format.md, "Votes").
    SnapshotWithoutViewChange,
    /// A rotation of the votes loses the prepared certificates (store-format.md, "Votes").
    SnapshotWithoutPrepared,
    /// Segments are written and not synced (store-format.md, "The order of writing").
    SegmentsNotSynced,
    /// Votes are written and not synced (store-format.md, "The order of writing").
    VotesNotSynced,
    /// The name of a new segment is not synced (store-format.md, "The order of writing").
    SegmentNameNotSynced,
    /// A page's checksum is not compared (store-format.md, "Page").
    ChecksumIgnored,
    /// A group is read up to its first missing page (store-format.md, "Torn and damaged").
    TornGroupRead,
    /// The last group found at a start is not written again (store-format.md, "Torn and damaged").
    LastGroupNotWrittenAgain,
    /// Checkpoints that the log holds are not signed again at a start (protocol.md, "Checkpoints").
    CheckpointsNotSignedAgain,
    /// Catch-up asks the same peer for ever (protocol.md, "Catch-up and gossip").
    CatchUpAsksOnePeer,
    /// The new-view timer starts only with a quorum at exactly that view (protocol.md, "View change" 4).
    ExactViewQuorum,
    /// Nobody complains about a submission that is left out (protocol.md, "Timers": request).
    RequestTimeoutIgnored,
    /// Nobody complains about a leader that serves nobody (protocol.md, "Timers": stall and request).
    TimeoutsIgnored,
    /// A view-change is sent once (protocol.md, "Timers": gossip).
    ViewChangeNotRepeated,
    /// A body that the new view chose is not fetched (protocol.md, "View change" 6).
    BodiesNotFetched,
    /// Checkpoints that a stuck peer lacks are not sent again (protocol.md, "Catch-up and gossip").
    CheckpointsNotResent,
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in everything that this thread runs from now on, or none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub(crate) fn on(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// No bug is planted.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
#[must_use]
pub(crate) const fn on(_: Bug) -> bool {
    false
}
