//! The order of layers in an archive, the window that it needs, and where it can be read in parts.
//!
//! zstd finds what was written before, as far back as its window reaches. tar-split says of each file of a layer how
//! long it is, its checksum and where in the tar it stands: so all that two layers have in common, and how far apart
//! that will lie, is known before a file is read. Of the layers whose parents are written, the one comes next of which
//! the largest part is within reach.
//!
//! Files of one name in two layers are mostly versions of one another, as when an image is built anew; they count half.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;

/// A file in a layer's tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct File {
    /// Made from its length and its checksum.
    pub(super) content: u64,
    /// Made from its name.
    pub(super) name: u64,
    /// Where its content begins in the tar, in bytes.
    pub(super) offset: u64,
    /// Length of its content in bytes.
    pub(super) size: u64,
}

/// What is in a layer's tar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Length of the tar in bytes.
    pub(super) length: u64,
    /// The files that speak for it, in the order of the tar.
    pub(super) files: Vec<File>,
}

/// A layer that is to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer<'a> {
    /// Place in the list of the layer below.
    pub(super) parent: Option<usize>,
    /// Place in the list of the first layer with the same tar; its own, where it is the first.
    pub(super) tar: usize,
    pub(super) contents: &'a Contents,
}

/// How layers are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Their places in the list, parents before children.
    pub(super) sequence: Vec<usize>,
    /// How many of them each section of the archive holds.
    pub(super) sections: Vec<usize>,
    /// The smallest window that does, as a power of two of bytes.
    pub(super) window: u32,
}

/// The largest window that every reader takes without being told to. A smaller one saves nothing worth it.
const EVERY_READER: u32 = 27;
/// The smallest window.
const SMALLEST: u32 = 20;
/// Of so many bytes one may be stored again for the sake of a smaller window, or of a section of its own.
const NEGLIGIBLE: u64 = 256;
/// Least bytes of a section but the last: each costs a moment in which not all threads compress.
const SECTION: u64 = 16 << 20;
/// Most sections: each takes some bytes of the seek table.
const SECTIONS: usize = 1 << 12;
/// Most layers that are compared before one is chosen.
const CANDIDATES: usize = 512;

/// Puts layers in order, for a window of up to 2^`reach` bytes. The same layers give the same order.
pub(super) fn order(layers: &[Layer<'_>], reach: u32) -> Order {
    let keys = Keys::of(layers);
    let mut tape = Tape::new(&keys, 1 << reach);
    let mut children = vec![Vec::new(); layers.len()];
    let mut ready = BTreeSet::new();
    for (place, layer) in layers.iter().enumerate() {
        match layer.parent {
            Some(parent) => children[parent].push(place),
            None => drop(ready.insert(place)),
        }
    }
    let mut sequence = Vec::with_capacity(layers.len());
    while let Some(next) = choose(layers, &ready, &tape) {
        ready.remove(&next);
        ready.extend(children[next].iter().copied());
        tape.write(layers[next].tar, layers[next].contents.length);
        sequence.push(next);
    }
    Order { sequence, sections: tape.sections(), window: tape.window(reach) }
}

/// Chooses the layer to be written next: the one with the largest part within reach, or else the first.
fn choose(layers: &[Layer<'_>], ready: &BTreeSet<usize>, tape: &Tape<'_>) -> Option<usize> {
    let is_written = |place: &&usize| tape.written.contains(&layers[**place].tar);
    if let Some(place) = ready.iter().find(is_written) {
        return Some(*place);
    }
    let has_keys = |place: &usize| !tape.keys.tars[&layers[*place].tar].is_empty();
    let candidates: Vec<usize> = ready.iter().copied().filter(has_keys).take(CANDIDATES).collect();
    let likeness = |place: usize| {
        let (bytes, length) = (tape.likeness(layers[place].tar), layers[place].contents.length.max(1));
        (u128::from(bytes) << 64) / u128::from(length)
    };
    let best = candidates.into_par_iter().map(|place| (likeness(place), Reverse(place))).max();
    match best {
        Some((likeness, Reverse(place))) if likeness > 0 => Some(place),
        _ => ready.first().copied(),
    }
}

/// A file's keys as numbers, where another file has the same.
struct Keyed {
    content: Option<u32>,
    name: Option<u32>,
    offset: u64,
    size: u64,
}

/// What the tars have in common.
struct Keys {
    /// Files of each tar that are in another one too, or twice.
    tars: BTreeMap<usize, Vec<Keyed>>,
    count: usize,
}

impl Keys {
    fn of(layers: &[Layer<'_>]) -> Self {
        let tars = || layers.iter().enumerate().filter(|(place, layer)| layer.tar == *place);
        let files = || tars().flat_map(|(_, layer)| &layer.contents.files);
        // Numbers of what occurs more than once; the others have none.
        let mut count = 0;
        let mut number = |key: fn(&File) -> u64| {
            let mut numbers: HashMap<u64, Option<u32>> = HashMap::new();
            for file in files() {
                numbers
                    .entry(key(file))
                    .and_modify(|number| {
                        number.get_or_insert_with(|| {
                            count += 1;
                            count - 1
                        });
                    })
                    .or_default();
            }
            numbers
        };
        let (contents, names) = (number(|file| file.content), number(|file| file.name));
        let keyed = |file: &File| Keyed {
            content: contents[&file.content],
            name: names[&file.name],
            offset: file.offset,
            size: file.size,
        };
        let is_common = |file: &Keyed| file.content.is_some() || file.name.is_some();
        let tars = tars()
            .map(|(place, layer)| (place, layer.contents.files.iter().map(keyed).filter(is_common).collect()))
            .collect();
        Self { tars, count: count as usize }
    }
}

/// Something that was written before.
struct Match {
    /// Bytes back to where it was.
    distance: u64,
    /// Bytes of it, as far as they count.
    bytes: u64,
    /// The layer it was in, in the order of writing.
    from: usize,
}

/// What has been written.
struct Tape<'a> {
    keys: &'a Keys,
    reach: u64,
    end: u64,
    /// Where each key was last, and in which layer.
    last: Vec<Option<(u64, usize)>>,
    written: BTreeSet<usize>,
    /// Bytes of each layer.
    lengths: Vec<u64>,
    /// Bytes that are within the window of a power of two, and of none before it.
    distances: BTreeMap<u32, u64>,
    /// Bytes that one layer has from another, within reach.
    matches: BTreeMap<(usize, usize), u64>,
}

impl<'a> Tape<'a> {
    fn new(keys: &'a Keys, reach: u64) -> Self {
        Self {
            keys,
            reach,
            end: 0,
            last: vec![None; keys.count],
            written: BTreeSet::new(),
            lengths: Vec::new(),
            distances: BTreeMap::new(),
            matches: BTreeMap::new(),
        }
    }

    fn find(&self, file: &Keyed) -> Option<Match> {
        let at = self.end + file.offset;
        let last = |key: Option<u32>, bytes| {
            let (last, from) = self.last[key? as usize]?;
            let distance = at - last;
            (distance <= self.reach).then_some(Match { distance, bytes, from })
        };
        last(file.content, file.size).or_else(|| last(file.name, file.size / 2))
    }

    /// Returns how many bytes of a tar are within reach, were it written now.
    fn likeness(&self, tar: usize) -> u64 {
        self.keys.tars[&tar].iter().filter_map(|file| self.find(file)).map(|found| found.bytes).sum()
    }

    fn write(&mut self, tar: usize, length: u64) {
        let (keys, layer) = (self.keys, self.lengths.len());
        if !self.written.insert(tar) {
            self.lengths.push(0);
            return;
        }
        for file in &keys.tars[&tar] {
            if let Some(found) = self.find(file) {
                *self.distances.entry(power(found.distance)).or_default() += found.bytes;
                if found.from != layer {
                    *self.matches.entry((found.from, layer)).or_default() += found.bytes;
                }
            }
            for key in [file.content, file.name].into_iter().flatten() {
                self.last[key as usize] = Some((self.end + file.offset, layer));
            }
        }
        self.lengths.push(length);
        self.end += length;
    }

    /// Returns the smallest window that has nearly all that is within reach.
    fn window(&self, reach: u32) -> u32 {
        let least = power(self.end).clamp(SMALLEST, EVERY_READER).min(reach);
        let beyond = |window: u32| self.distances.range(window + 1..).map(|(_, bytes)| bytes).sum::<u64>();
        (least..reach).find(|window| beyond(*window) <= self.end / NEGLIGIBLE).unwrap_or(reach)
    }

    /// Returns how many layers each section holds: one ends where little of what follows is in it.
    fn sections(&self) -> Vec<usize> {
        let (mut from, mut to) = (vec![0; self.lengths.len()], vec![Vec::new(); self.lengths.len()]);
        for ((one, other), bytes) in &self.matches {
            from[*one] += bytes;
            to[*other].push((*one, bytes));
        }
        let mut sections = Vec::new();
        // Of the open section: its first layer, its bytes, and those of them that what follows has too.
        let (mut first, mut bytes, mut across) = (0, 0, 0);
        for border in 1..self.lengths.len() {
            let layer = border - 1;
            bytes += self.lengths[layer];
            across += from[layer];
            across -= to[layer].iter().filter(|(from, _)| *from >= first).map(|(_, bytes)| *bytes).sum::<u64>();
            // A layer whose tar was written before has nothing to begin one with.
            let is_one = bytes >= SECTION && across <= bytes / NEGLIGIBLE && self.lengths[border] > 0;
            if is_one && sections.len() < SECTIONS {
                sections.push(border - first);
                (first, bytes, across) = (border, 0, 0);
            }
        }
        if first < self.lengths.len() {
            sections.push(self.lengths.len() - first);
        }
        sections
    }
}

/// Returns the least power of two that is not below a number of bytes.
fn power(bytes: u64) -> u32 {
    bytes.max(1).next_power_of_two().ilog2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1 << 20;

    /// A tar of files of 1 MiB with these contents, named by them.
    fn tar(contents: impl IntoIterator<Item = u64>) -> Contents {
        let files = contents.into_iter().enumerate().map(|(at, content)| File {
            content,
            name: content + (1 << 32),
            offset: at as u64 * MB,
            size: MB,
        });
        let files: Vec<File> = files.collect();
        Contents { length: files.len() as u64 * MB, files }
    }

    fn arrange(layers: &[(Option<usize>, Contents)], reach: u32) -> Order {
        let layers: Vec<Layer<'_>> = layers
            .iter()
            .enumerate()
            .map(|(place, (parent, contents))| Layer { parent: *parent, tar: place, contents })
            .collect();
        order(&layers, reach)
    }

    #[test]
    fn nothing_is_in_order() {
        assert_eq!(arrange(&[], 28), Order { sequence: vec![], sections: vec![], window: SMALLEST });
    }

    #[test]
    fn layers_that_are_alike_are_neighbours() {
        // Two builds of a stack of three.
        let layers = [
            (None, tar(0..40)),
            (Some(0), tar(100..140)),
            (Some(1), tar(200..240)),
            (None, tar((0..40).map(|n| if n < 4 { n + 1000 } else { n }))),
            (Some(3), tar((100..140).map(|n| if n < 104 { n + 1000 } else { n }))),
            (Some(4), tar((200..240).map(|n| if n < 204 { n + 1000 } else { n }))),
        ];
        let found = arrange(&layers, 28);
        assert_eq!(found.sequence, [0, 3, 1, 4, 2, 5]);
        assert_eq!(found.sections, [2, 2, 2]);
        assert_eq!(found.window, 27);
    }

    #[test]
    fn files_of_one_name_are_alike() {
        let renamed = |from: u64| {
            let mut contents = tar(from..from + 20);
            contents.files.iter_mut().zip(5000..).for_each(|(file, name)| file.name = name);
            contents
        };
        let layers = [(None, renamed(0)), (None, tar(100..120)), (None, renamed(200))];
        assert_eq!(arrange(&layers, 28).sequence, [0, 2, 1]);
    }

    #[test]
    fn what_is_out_of_reach_is_not_alike() {
        let layers = [(None, tar((0..20).chain(1000..1200))), (None, tar(2000..2010)), (None, tar(0..20))];
        assert_eq!(arrange(&layers, 28).sequence, [0, 2, 1]);
        assert_eq!(arrange(&layers, 27).sequence, [0, 1, 2]);
    }

    #[test]
    fn the_window_is_as_large_as_it_must_be() {
        let apart = |distance: u64| [(None, tar((0..20).chain(1000..980 + distance))), (None, tar(0..20))];
        for (distance, window) in [(128, 27), (129, 28), (256, 28), (257, 29), (512, 29)] {
            assert_eq!(arrange(&apart(distance), 29).window, window, "{distance} MiB apart");
        }
        assert_eq!(arrange(&apart(500), 28).window, 27);
        assert_eq!(arrange(&apart(200), 22).window, 22);
        assert_eq!(arrange(&[(None, tar(0..3))], 28).window, 22);
    }

    #[test]
    fn a_section_ends_where_nothing_is_lost() {
        let some = |from: u64| tar(from..from + 20);
        let unlike = [(None, some(0)), (Some(0), some(100)), (None, some(200)), (None, tar(300..301))];
        assert_eq!(arrange(&unlike, 28).sections, [1, 1, 1, 1]);
        let small = [(None, tar(0..1)), (None, tar(1..2)), (None, some(200)), (None, tar(300..301))];
        assert_eq!(arrange(&small, 28).sections, [3, 1]);
        // The third has a file of the first.
        let alike = [(None, some(0)), (Some(0), some(100)), (Some(1), tar((0..1).chain(200..220)))];
        assert_eq!(arrange(&alike, 28).sections, [3]);
    }

    #[test]
    fn a_tar_that_two_layers_have_is_written_once() {
        let (one, other) = (tar(0..20), tar(0..20));
        let layers = [
            Layer { parent: None, tar: 0, contents: &one },
            Layer { parent: None, tar: 1, contents: &other },
            Layer { parent: Some(1), tar: 0, contents: &one },
        ];
        let found = order(&layers, 28);
        assert_eq!((found.sequence, found.sections), (vec![0, 1, 2], vec![3]));
    }

    fn any_layers() -> impl Strategy<Value = Vec<(Option<usize>, Contents)>> {
        let layer = (any::<proptest::sample::Index>(), any::<bool>(), proptest::collection::vec(0_u64..60, 0..30));
        proptest::collection::vec(layer, 0..14).prop_map(|layers| {
            let layers = layers.into_iter().enumerate();
            layers
                .map(|(place, (parent, is_root, files))| {
                    let parent = (!is_root && place > 0).then(|| parent.index(place));
                    (parent, tar(files))
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn each_layer_is_written_once_behind_its_parent(layers in any_layers(), reach in 20_u32..30) {
            let found = arrange(&layers, reach);
            let mut sorted = found.sequence.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..layers.len()).collect::<Vec<_>>());
            let at = |layer: usize| found.sequence.iter().position(|place| *place == layer);
            for (place, (parent, _)) in layers.iter().enumerate() {
                prop_assert!(parent.is_none_or(|parent| at(parent) < at(place)));
            }
            prop_assert_eq!(found.sections.iter().sum::<usize>(), layers.len());
            prop_assert!(found.sections.iter().all(|layers| *layers > 0));
            prop_assert!((SMALLEST..=reach).contains(&found.window));
            prop_assert_eq!(arrange(&layers, reach), found);
        }
    }
}
