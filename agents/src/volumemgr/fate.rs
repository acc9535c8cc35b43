//! What is to become of one volume. Pure: a situation in, a fate out.
//!
//! ```text
//!            wanted                    made                      not wanted any more
//!   (none) ─────────▶ Creating ───────────────▶ Created ─────────────────────────▶ Destroying ─▶ (none)
//!      │                 │  ▲ after a crash: afresh                                     ▲
//!      └─ a file there:  └──┴──────────────── not wanted any more ───────────────────────┘
//!         adopted
//! ```
//!
//! A volume is wanted while an application uses it, a snapshot holds it ([003] B9), or the controller lists it.
//! One exception ([003] F2): a generation that only the controller lists goes while another generation of the
//! same volume is in use; it is made again when it is used.
//!
//! Nothing goes before all who could want it have spoken: zedagent and zedmanager have said `Restarted`, and
//! the snapshots on disk are loaded.

use holdfast_types::VolumeStage;

/// All that counts for the fate of one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// What our own row says, if there is one.
    pub stage: Option<VolumeStage>,
    /// The controller lists it, or our row says what it is made from.
    pub configured: bool,
    /// Listed by the controller now.
    pub listed: bool,
    /// A whole file bears its name, and no row knows it.
    pub found: bool,
    pub used: bool,
    pub held: bool,
    pub used_in_another_generation: bool,
    /// zedmanager has published its references, zedagent its lists, and the snapshots are loaded.
    pub everybody_has_spoken: bool,
}

/// What to do about the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Make it (afresh, if there are remains).
    Create,
    /// It is there and stays.
    Keep,
    /// It goes, with whatever remains of it.
    Destroy,
    /// It is used, and nobody ever said what it is made from.
    Unknown,
    /// Not there, and rightly so, or not yet decidable.
    Nothing,
}

/// Decides.
pub fn fate(now: &Situation) -> Fate {
    let wanted = is_wanted(now);
    match now.stage {
        // Never taken back: a part of it may be gone already. If it is wanted it is made again from nothing.
        Some(VolumeStage::Destroying) => Fate::Destroy,
        Some(VolumeStage::Created) if wanted || !now.everybody_has_spoken => Fate::Keep,
        Some(VolumeStage::Created) => Fate::Destroy,
        Some(VolumeStage::Creating) if wanted => Fate::Create,
        Some(VolumeStage::Creating) if now.everybody_has_spoken => Fate::Destroy,
        Some(VolumeStage::Creating) => Fate::Nothing,
        None if now.used => used_but_not_there(now),
        // Its row was lost, and it is there: adopted, for the snapshots in it.
        None if now.held && now.found => Fate::Create,
        // Held only: a snapshot of a volume that is lost is not mended by an empty volume.
        None if now.held => Fate::Nothing,
        None if wanted && now.everybody_has_spoken => Fate::Create,
        None => Fate::Nothing,
    }
}

fn is_wanted(now: &Situation) -> bool {
    now.used || now.held || (now.listed && !now.used_in_another_generation)
}

fn used_but_not_there(now: &Situation) -> Fate {
    if now.configured {
        Fate::Create
    } else if now.everybody_has_spoken {
        Fate::Unknown
    } else {
        Fate::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use VolumeStage::{Created, Creating, Destroying};

    const NOBODY: Situation = Situation {
        stage: None,
        configured: false,
        listed: false,
        found: false,
        used: false,
        held: false,
        used_in_another_generation: false,
        everybody_has_spoken: true,
    };

    fn at(stage: VolumeStage) -> Situation {
        Situation { stage: Some(stage), configured: true, ..NOBODY }
    }

    #[test]
    fn the_table() {
        let listed = Situation { configured: true, listed: true, ..NOBODY };
        let superseded = Situation { used_in_another_generation: true, ..listed };
        let silent = |now: Situation| Situation { everybody_has_spoken: false, ..now };
        let cases = [
            ("listed and not there", listed, Fate::Create),
            ("listed, but who uses it is not known yet", silent(listed), Fate::Nothing),
            ("listed, another generation is in use [003] F2", superseded, Fate::Nothing),
            ("the same, but there", Situation { stage: Some(Created), ..superseded }, Fate::Destroy),
            ("the same, held", Situation { stage: Some(Created), held: true, ..superseded }, Fate::Keep),
            ("the same, used", Situation { used: true, ..superseded }, Fate::Create),
            ("used and listed", Situation { used: true, ..listed }, Fate::Create),
            ("used at once after a start", silent(Situation { used: true, ..listed }), Fate::Create),
            ("used and never heard of", Situation { used: true, ..NOBODY }, Fate::Unknown),
            ("the same, at the start", silent(Situation { used: true, ..NOBODY }), Fate::Nothing),
            ("held and lost", Situation { held: true, ..listed }, Fate::Nothing),
            (
                "held, its row lost, its file there",
                Situation { held: true, found: true, ..NOBODY },
                Fate::Create,
            ),
            ("its file there, wanted by nobody", Situation { found: true, ..NOBODY }, Fate::Nothing),
            ("there, held, not listed [003] B9", Situation { held: true, ..at(Created) }, Fate::Keep),
            ("there, used, not listed", Situation { used: true, ..at(Created) }, Fate::Keep),
            ("there, wanted by nobody", at(Created), Fate::Destroy),
            ("the same, at the start", silent(at(Created)), Fate::Keep),
            ("half made, listed", Situation { listed: true, ..at(Creating) }, Fate::Create),
            ("half made, wanted by nobody", at(Creating), Fate::Destroy),
            ("the same, at the start", silent(at(Creating)), Fate::Nothing),
            ("half destroyed, used again", Situation { used: true, ..at(Destroying) }, Fate::Destroy),
            ("half destroyed, at the start", silent(at(Destroying)), Fate::Destroy),
            ("nothing at all", NOBODY, Fate::Nothing),
        ];
        for (story, situation, expected) in cases {
            assert_eq!(fate(&situation), expected, "{story}");
        }
    }

    #[test]
    fn nothing_held_or_used_is_ever_destroyed_unless_it_was_decided_before() {
        for bits in 0..128u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            for stage in [None, Some(Creating), Some(Created)] {
                let now = Situation {
                    stage,
                    configured: bit(0),
                    listed: bit(1),
                    found: bit(6),
                    used: bit(2),
                    held: bit(3),
                    used_in_another_generation: bit(4),
                    everybody_has_spoken: bit(5),
                };
                if now.used || now.held || !now.everybody_has_spoken {
                    assert_ne!(fate(&now), Fate::Destroy, "{now:?}");
                }
            }
        }
    }
}
