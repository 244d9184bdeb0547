//! What a graph driver keeps around the trees of layers.

use std::collections::BTreeSet;

use crate::finding::{Code, Thing};
use crate::id::{CacheId, ChainId, LinkId, Sha256};
use crate::model::LayerRecord;
use crate::ops::mounts;
use crate::ops::short_names::target;
use crate::ops::trash::Owned;
use crate::ops::verify::Found;
use crate::store::Mount;

use super::super::plan::{Act, Step};
use super::part::Part;
use super::{Planner, dir_of};

impl<'a> Planner<'a> {
    /// `link`, `l/`, `lower`, `work`, `committed`, `lower-id`, modes and owners.
    pub(super) fn driver_files(&mut self, found: &'a Found) {
        let code = found.finding.code;
        if !self.builds() {
            if Part::of(code) == Part::Driver && code != Code::DriverTreeMissing {
                let needs = format!("what {} keeps around its trees is not mended here", self.driver);
                self.leave(found, needs);
            }
            return;
        }
        if code == Code::DriverLinksMissing {
            return self.all_links(found);
        }
        let Some(id) = dir_of(found).cloned() else { return };
        match code {
            Code::DriverShortNameLost | Code::DriverShortNameWrong => {
                let name = self.name_of(&id, None);
                // Its own file may say the name of another.
                let says = self.snapshot.driver_dirs.get(&id).and_then(|dir| dir.link.as_ref());
                let link = (says != Some(&name))
                    .then(|| (Step::Directory, self.dir_path(&id, "link"), self.driver_file("link", name.as_str())));
                let pieces = link.into_iter().chain(self.link_piece(&id, &name));
                let pieces: Vec<_> = pieces.collect();
                self.mend(found, format!("make the short name l/{name} lead to it"), pieces);
            }
            Code::DriverLinkLost | Code::DriverLinkWrong => {
                let name = self.name_of(&id, None);
                let mut pieces =
                    vec![(Step::Directory, self.dir_path(&id, "link"), self.driver_file("link", name.as_str()))];
                pieces.extend(self.link_piece(&id, &name));
                self.mend(found, format!("write its short name {name} to link"), pieces);
                self.renamed(found, &id, &name);
            }
            Code::DriverLowerMissing
            | Code::DriverLowerMismatch
            | Code::DriverLowerLost
            | Code::LowerDirectoryMissing => {
                self.lower(found, &id);
            }
            Code::DriverUnreadable if matches!(found.finding.object.thing, Thing::Lower(_)) => self.lower(found, &id),
            Code::DriverWorkMissing | Code::DriverWorkNeedless => {
                let piece = (Step::Directory, self.dir_path(&id, "work"), self.driver_directory("work"));
                self.mend(found, "make work", [piece]);
            }
            Code::DriverCommittedMissing => {
                let piece = (Step::Directory, self.dir_path(&id, "committed"), self.driver_file("committed", ""));
                self.mend(found, "mark it as having a layer above, in committed", [piece]);
            }
            Code::DriverMode | Code::DriverOwner => self.attributes(found, &id),
            Code::DriverSubvolumeMissing => {
                let act = Act::Subvolume { written: self.layer_of(&id).is_none() };
                let piece = (Step::Directory, self.dir_path(&id, ""), act);
                self.mend(found, "make a subvolume of the directory, which shares the blocks of its files", [piece]);
            }
            _ => {}
        }
    }

    /// Makes `l/` with the short names of all directories, also of those that are built anew.
    fn all_links(&mut self, found: &Found) {
        let built = self.reseeded.values().map(|reseed| &reseed.layer.record.cache_id);
        let ids: BTreeSet<CacheId> = self.snapshot.driver_dirs.keys().chain(built).cloned().collect();
        let mut links = Vec::new();
        for id in ids {
            let says_one = self.snapshot.driver_dirs.get(&id).is_some_and(|dir| dir.link.is_some());
            if says_one || self.stack_of(&id).is_some() {
                let name = self.name_of(&id, None);
                links.push((name.to_string(), target(&id)));
            }
        }
        let piece = (
            Step::Link,
            format!("{}/l", self.driver),
            Act::Directory { links, owned: self.owned(self.driver.home_mode("l")) },
        );
        self.mend(found, "make l/ with the short names that the directories say", [piece]);
    }

    /// What is stacked on a directory says its short name: where that is a new one, all of them say it anew.
    pub(super) fn renamed(&mut self, found: &Found, id: &CacheId, name: &LinkId) {
        let above: Vec<CacheId> = self
            .snapshot
            .driver_dirs
            .keys()
            .filter(|above| self.stack_of(above).is_some_and(|stack| stack.contains(id)))
            .filter(|above| self.survey.short.lowers.get(*above).is_none_or(|names| !names.contains(name)))
            .cloned()
            .collect();
        for above in above {
            self.lower(found, &above);
        }
    }

    /// Writes what a directory is stacked on.
    fn lower(&mut self, found: &Found, id: &CacheId) {
        if self.lower_comes_back(id) {
            self.explained.insert((found.finding.object.clone(), found.finding.code));
            return;
        }
        let Some(stack) = self.stack_of(id) else {
            return match self.lower_by_init(id) {
                Some(text) => {
                    let piece = (Step::Directory, self.dir_path(id, "lower"), self.driver_file("lower", text));
                    self.mend(found, "write lower as that of its init layer says", [piece]);
                }
                None => self.leave(found, "nothing says what it is stacked on"),
            };
        };
        if self.driver.has_lower_ids() {
            let Some(whole) = stack.iter().find(|id| self.is_whole_tree(id)) else {
                return self.leave(found, "what it is stacked on is gone");
            };
            let piece = (Step::Directory, self.dir_path(id, "lower-id"), self.driver_file("lower-id", whole.as_str()));
            return self.mend(found, "write lower-id as the layers say", [piece]);
        }
        let path = self.dir_path(id, "lower");
        let act = match self.lower_text(&stack) {
            Some(text) => self.driver_file("lower", text),
            None => Act::Remove,
        };
        self.mend(found, "write lower as the layers say", [(Step::Directory, path, act)]);
    }

    /// Returns the text of `lower` of a container's directory, of which no layer is known: it stands on its init layer, and
    /// on all that this stands on.
    fn lower_by_init(&mut self, id: &CacheId) -> Option<String> {
        let mount = self.mounts.values().find(|mount| mount.mount_id.as_ref() == Some(id))?;
        let init = mount.init_id.clone().filter(|init| init != id)?;
        let below = self.survey.short.lowers.get(&init)?.clone();
        let names = std::iter::once(self.name_of(&init, None)).chain(below);
        Some(names.map(|name| format!("l/{name}")).collect::<Vec<_>>().join(":"))
    }

    /// Tells whether what a directory says that it is stacked on is right once the layers are rebuilt.
    fn lower_comes_back(&mut self, id: &CacheId) -> bool {
        let stack = self.stack_of(id);
        if self.driver.has_lower_ids() {
            let Some(lower) = self.survey.lower_ids.get(id) else { return false };
            let whole = stack.map(|stack| stack.into_iter().find(|id| self.is_whole_tree(id)));
            return self.is_whole_tree(lower) && whole.is_none_or(|whole| whole.as_ref() == Some(lower));
        }
        let Some(names) = self.survey.short.lowers.get(id).cloned() else { return false };
        if let Some(stack) = stack {
            let says: Vec<String> = names.iter().map(|name| format!("l/{name}")).collect();
            return self.lower_text(&stack) == Some(says.join(":"));
        }
        let will_lead = |name: &LinkId| {
            let is_there = |id: &CacheId| self.leads(name) == Some(&target(id));
            self.names.values().any(|planned| planned == name) || self.snapshot.driver_dirs.keys().any(is_there)
        };
        names.iter().all(will_lead)
    }

    /// `overlay`: tells whether a directory has, or will have, a whole tree.
    fn is_whole_tree(&self, id: &CacheId) -> bool {
        let rebuilt = self.reseeded.values().find(|reseed| reseed.layer.record.cache_id == *id);
        match rebuilt {
            Some(reseed) => reseed.layer.record.facts.lower_id.is_none(),
            None => self.survey.whole_trees.contains(id),
        }
    }

    fn attributes(&mut self, found: &Found, id: &CacheId) {
        let mut pieces = Vec::new();
        for file in self.driver.made() {
            let modes = self.driver.modes(file);
            let path = self.dir_path(id, file);
            let Some(had) = self.survey.owned.get(&path).copied() else { continue };
            let mode = if modes.contains(&had.mode) { had.mode } else { modes[0] };
            let gets = Owned { mode, ..self.owned(mode) };
            if gets != had {
                pieces.push((Step::Directory, path, Act::Attributes { had, gets }));
            }
        }
        self.mend(found, "give it the mode and owner that the driver gives", pieces);
    }

    /// Returns the directories that a directory of a layer, container or its init layer is stacked on, nearest first.
    fn stack_of(&self, id: &CacheId) -> Option<Vec<CacheId>> {
        if let Some(chain) = self.layer_of(id) {
            return self.dirs_below(chain);
        }
        let is_of =
            |(_, mount): &(&_, &Mount)| mount.mount_id.as_ref() == Some(id) || mount.init_id.as_ref() == Some(id);
        let (name, mount) = self.mounts.iter().find(is_of)?;
        let mut stack = Vec::new();
        if let Some(init) = mount.init_id.as_ref().filter(|init| *init != id) {
            stack.push(init.clone());
        }
        match mount.parent {
            Some(parent) => {
                stack.push(self.dirs.get(&parent)?.clone());
                stack.extend(self.dirs_below(parent)?);
            }
            None if mounts::stands_on_nothing(self.snapshot, name) => {}
            None => return None,
        }
        Some(stack)
    }

    /// Returns the directories of the layers below a layer, nearest first; `None` where one of them is not known.
    pub(super) fn dirs_below(&self, chain: ChainId) -> Option<Vec<CacheId>> {
        self.below(chain)?.iter().map(|below| self.dirs.get(below).cloned()).collect()
    }

    /// Returns the directory of a layer as what is stacked on it says.
    pub(super) fn dir_by_above(&self, chain: ChainId) -> Option<CacheId> {
        let layers = self.dirs.iter().filter_map(|(above, id)| Some((id, self.below(*above)?)));
        let mounts = self.mounts.values().filter_map(|mount| {
            // A container stands on its init layer first; that stands on the image.
            let id = mount.init_id.as_ref().or(mount.mount_id.as_ref())?;
            let parent = mount.parent?;
            Some((id, [vec![parent], self.below(parent)?].concat()))
        });
        layers.chain(mounts).find_map(|(above, stack)| {
            let at = stack.iter().position(|below| *below == chain)?;
            if self.driver.has_lower_ids() {
                return self.survey.lower_ids.get(above).filter(|_| at == 0).cloned();
            }
            let names = self.survey.short.lowers.get(above).filter(|names| names.len() == stack.len())?;
            let target = self.leads(&names[at])?.strip_prefix("../")?.strip_suffix("/diff")?;
            CacheId::parse(target.as_bytes()).ok()
        })
    }

    /// Tells whether something is stacked on a layer.
    pub(super) fn has_child(&self, chain: ChainId) -> bool {
        self.parents.values().any(|parent| *parent == Some(chain))
            || self.mounts.values().any(|mount| mount.parent == Some(chain))
    }

    /// Returns the text of `lower` above these directories; `None` above nothing.
    pub(super) fn lower_text(&mut self, stack: &[CacheId]) -> Option<String> {
        let names: Vec<String> = stack.iter().map(|id| format!("l/{}", self.name_of(id, None))).collect();
        (!names.is_empty()).then(|| names.join(":"))
    }

    /// Returns the short name that a directory has or gets: the one it says, else the one that leads to it, else the one
    /// that what is stacked on it says, else the source's, else a new one.
    pub(super) fn name_of(&mut self, id: &CacheId, record: Option<&LayerRecord>) -> LinkId {
        if let Some(name) = self.names.get(id) {
            return name.clone();
        }
        let name = self.old_name(id).or_else(|| {
            let archived = record?.facts.link.clone()?;
            self.is_free(&archived, id).then_some(archived)
        });
        let name = name.unwrap_or_else(|| {
            let drawn = (0_u64..).filter_map(|turn| {
                LinkId::of_hex(&Sha256::of(format!("dockpack repair {id} {turn}").as_bytes()).hex().as_bytes()[..26])
            });
            drawn
                .into_iter()
                .find(|name| self.is_free(name, id))
                .expect("because there are more names than directories")
        });
        self.names.insert(id.clone(), name.clone());
        name
    }

    fn old_name(&self, id: &CacheId) -> Option<LinkId> {
        let dir = self.snapshot.driver_dirs.get(id);
        let leads_here = |name: &&LinkId| self.leads(name) == Some(&target(id));
        let own = dir.and_then(|dir| dir.link.clone()).filter(|name| self.is_free(name, id));
        let by_link = || {
            let links = self.survey.short.links.iter().flatten().map(|(name, _)| name);
            let mut leading: Vec<&LinkId> = links.filter(leads_here).collect();
            // Of several, the one that something is stacked on.
            leading.sort_by_key(|name| !self.survey.short.lowers.values().any(|lower| lower.contains(name)));
            leading.first().map(|name| (*name).clone())
        };
        let by_lower = || {
            let mut said = self.survey.short.of_below(id, |above| self.stack_of(above));
            said.find(|name| self.is_free(name, id)).cloned()
        };
        own.or_else(by_link).or_else(by_lower)
    }

    /// Tells whether a short name can be that of a directory: no other says that it is its own.
    fn is_free(&self, name: &LinkId, id: &CacheId) -> bool {
        let is_of_another = |other: &CacheId, says: Option<&LinkId>| other != id && says == Some(name);
        let says = self.snapshot.driver_dirs.iter().any(|(other, dir)| {
            // Two that say the same name: it is that of the one it leads to.
            is_of_another(other, dir.link.as_ref()) && self.leads(name) == Some(&target(other))
        });
        let planned = self.names.iter().any(|(other, planned)| is_of_another(other, Some(planned)));
        let is_new = self.snapshot.driver_dirs.get(id).is_none_or(|dir| dir.link.as_ref() != Some(name));
        // A name that the directory does not say itself must lead nowhere else.
        let leads_elsewhere = is_new && self.leads(name).is_some_and(|leads| *leads != target(id));
        !says && !planned && !leads_elsewhere
    }

    fn leads(&self, name: &LinkId) -> Option<&String> {
        self.survey.short.leads(name)
    }

    /// Returns what makes a short name lead to a directory, where it does not.
    pub(super) fn link_piece(&self, id: &CacheId, name: &LinkId) -> Option<(Step, String, Act)> {
        let links = self.survey.short.links.as_ref()?;
        let act = Act::Link { target: target(id) };
        (links.get(name) != Some(&target(id))).then(|| (Step::Link, format!("{}/l/{name}", self.driver), act))
    }
}
