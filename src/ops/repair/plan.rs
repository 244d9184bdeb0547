//! What a repair will do: pure data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::driver::Driver;
use crate::finding::{Code, Severity};
use crate::id::{CacheId, ChainId, ImageId};
use crate::ops::load::PlannedLayer;
use crate::ops::trash::{How, Identity, Kind, Move, Owned, Work};
use crate::store::InUse;

/// Number of the form of a plan.
pub(super) const SCHEMA: u32 = 1;

/// What will be repaired, and what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairPlan {
    /// Number of the plan's form.
    pub schema: u32,
    /// Graph driver of the store.
    pub driver: String,
    /// What will be repaired, by object.
    pub mends: Vec<Mend>,
    /// What will not be.
    pub left: Vec<Left>,
    /// Layers that are rebuilt, parents first.
    pub layers: Vec<Reseed>,
    /// Directories of layers that they stand on and that stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stands_on: BTreeMap<ChainId, CacheId>,
}

/// One object that will be repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mend {
    /// The object, as findings name it.
    pub subject: String,
    /// Codes of the findings about it.
    pub codes: Vec<Code>,
    /// What is done, as a sentence.
    pub act: String,
    /// What changes on disk, in this order among all pieces of the plan.
    pub pieces: Vec<Piece>,
}

/// Something that is wrong and stays so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// The object, as findings name it.
    pub subject: String,
    /// Code of the finding.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What would be needed, as a sentence.
    pub needs: String,
}

/// What a layer is rebuilt out of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// An archive or another store.
    #[default]
    Source,
    /// Itself: nothing is wrong with it but what it began as a copy of.
    Itself,
    /// Its own content and the headers of its tar; what these do not tell stays as it is.
    TarAndItself,
    /// The same, but modes and owners that the headers do not tell are doubtful: others of the layer are wrong.
    Tar,
}

/// A layer that is rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reseed {
    /// The layer, under the names that it has or will have here.
    #[serde(flatten)]
    pub layer: PlannedLayer,
    /// It comes from this store itself.
    pub from_itself: bool,
    /// What it is rebuilt out of.
    #[serde(default)]
    pub origin: Origin,
    /// `overlay2`: the text of `lower`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<String>,
}

/// When a piece changes: each step is durable before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Directories of the graph driver and what is in them.
    Directory,
    /// `overlay2`'s short names.
    Link,
    /// Entries of `layerdb/sha256`.
    Layer,
    /// Entries of `layerdb/mounts`.
    Mount,
    /// Configurations of images.
    Image,
    /// Records of registries.
    Distribution,
    /// References.
    Reference,
}

/// Something on disk that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    /// Place in the order of all pieces; its name in the trash.
    pub order: usize,
    /// When it changes.
    pub step: Step,
    /// Where it lies, relative to the data root.
    pub path: String,
    /// What is there; nothing where it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Identity>,
    /// What becomes of it.
    #[serde(flatten)]
    pub act: Act,
}

/// What becomes of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum Act {
    /// It goes to the trash.
    Remove,
    /// It becomes a file.
    Write {
        /// Its content.
        text: String,
        /// Mode and owner.
        #[serde(flatten)]
        owned: Owned,
    },
    /// It becomes a symbolic link.
    Link {
        /// Where it leads.
        target: String,
    },
    /// It becomes a directory of symbolic links.
    Directory {
        /// Name and target of each link.
        links: Vec<(String, String)>,
        /// Mode and owner.
        #[serde(flatten)]
        owned: Owned,
    },
    /// It becomes the configuration of an image.
    Config {
        /// The image.
        image: ImageId,
    },
    /// It becomes the directory of a layer that is rebuilt.
    LayerDirectory {
        /// The layer.
        chain: ChainId,
    },
    /// `btrfs`: it is a plain directory, and becomes a subvolume with all that is in it.
    Subvolume {
        /// A container or a build may write there.
        written: bool,
    },
    /// It becomes the entry of a layer that is rebuilt.
    LayerEntry {
        /// The layer.
        chain: ChainId,
    },
    /// It becomes the tar-split of a layer that is rebuilt.
    TarSplit {
        /// The layer.
        chain: ChainId,
    },
    /// It gets another mode and owner.
    Attributes {
        /// What it had.
        had: Owned,
        /// What it gets.
        gets: Owned,
    },
}

impl RepairPlan {
    /// Returns all pieces, by object.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.mends.iter().flat_map(|mend| &mend.pieces)
    }

    /// Leaves out what changes directories that the kernel uses: containers may run on without their daemon.
    pub(super) fn leave_used(&mut self, in_use: &InUse) {
        let driver = Driver::named(&self.driver);
        for mend in std::mem::take(&mut self.mends) {
            let Some(how) = mend.used(driver, in_use) else {
                self.mends.push(mend);
                continue;
            };
            let needs = format!("it is {how}: stop what uses it first");
            self.left.extend(mend.codes.iter().map(|code| Left {
                subject: mend.subject.clone(),
                code: *code,
                severity: Severity::Damage,
                needs: needs.clone(),
            }));
        }
        let built: Vec<ChainId> = self
            .pieces()
            .filter_map(|piece| match piece.act {
                Act::LayerDirectory { chain } => Some(chain),
                _ => None,
            })
            .collect();
        self.layers.retain(|reseed| built.contains(&reseed.layer.record.chain));
    }

    /// Tells whether damage stays that the plan does not repair.
    #[must_use]
    pub fn leaves_damage(&self) -> bool {
        self.left.iter().any(|left| left.severity == Severity::Damage)
    }
}

impl Work for RepairPlan {
    fn kind(&self) -> Kind {
        Kind::Repair
    }

    fn driver(&self) -> &str {
        &self.driver
    }

    fn moves(&self) -> Vec<Move<'_>> {
        self.pieces().map(Piece::as_move).collect()
    }

    /// All of a repair belongs together.
    fn groups(&self) -> Vec<Vec<usize>> {
        vec![self.pieces().map(|piece| piece.order).collect()]
    }

    fn count(&self) -> usize {
        self.mends.len()
    }

    /// With a piece in a directory that is used, all of its object.
    fn held(&self, in_use: &InUse) -> BTreeMap<usize, String> {
        let driver = Driver::named(&self.driver);
        let used = self.mends.iter().filter_map(|mend| Some((mend, mend.used(driver, in_use)?)));
        used.flat_map(|(mend, how)| mend.pieces.iter().map(|piece| (piece.order, how.to_owned()))).collect()
    }

    fn copies(&self) -> BTreeMap<usize, bool> {
        let copied = |piece: &Piece| match piece.act {
            Act::Subvolume { written } => Some((piece.order, written)),
            _ => None,
        };
        self.pieces().filter_map(copied).collect()
    }
}

impl Piece {
    /// Says how the piece moves.
    fn as_move(&self) -> Move<'_> {
        let how = match (&self.act, &self.was) {
            (Act::Remove, was) => How::Away(was.as_ref()),
            (Act::Attributes { had, gets }, Some(node)) => How::Attributes { node, was: *had, now: *gets },
            (_, Some(was)) => How::Exchange(was),
            (_, None) => How::Put,
        };
        Move { order: self.order, step: self.step as usize, path: &self.path, how }
    }
}
