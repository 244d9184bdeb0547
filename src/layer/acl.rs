//! Access control lists of POSIX, as far as a change of the permission bits changes them.
//!
//! The value of the attribute is a version (2) and entries of eight bytes: tag, permissions and an ID. Docker sets attributes
//! first and permission bits after them, and the kernel then puts the bits into the list (`posix_acl_chmod`): those of the
//! owner, of all others, and in the middle those of the *mask*, or of the group where there is no mask. A list that says
//! nothing beyond the bits is not kept.

use std::collections::BTreeMap;

use crate::fsx::XattrName;

/// Attribute of the list that holds for a node itself.
const ACCESS: &[u8] = b"system.posix_acl_access";
/// What the value begins with.
const VERSION: [u8; 4] = 2_u32.to_le_bytes();
/// Length of an entry.
const ENTRY: usize = 8;

const OWNER: u16 = 1;
const USER: u16 = 2;
const OWNER_GROUP: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHERS: u16 = 32;

/// Puts permission bits into the list of a node, where it has one that is of the form.
pub(super) fn take_mode(xattrs: &mut BTreeMap<XattrName, Vec<u8>>, mode: u32) {
    let Some(list) = xattrs.get_mut(ACCESS) else { return };
    let Some((entries, [])) = list.strip_prefix(&VERSION[..]).map(<[u8]>::as_chunks::<ENTRY>) else { return };
    let tag = |entry: &[u8; ENTRY]| u16::from_le_bytes([entry[0], entry[1]]);
    let has_mask = entries.iter().any(|entry| tag(entry) == MASK);
    let is_more = has_mask || entries.iter().any(|entry| matches!(tag(entry), USER | GROUP));
    let mut kept = VERSION.to_vec();
    for entry in entries {
        let bits = match tag(entry) {
            OWNER => Some(mode >> 6),
            OWNER_GROUP if !has_mask => Some(mode >> 3),
            MASK => Some(mode >> 3),
            OTHERS => Some(mode),
            _ => None,
        };
        let mut entry = *entry;
        if let Some(bits) = bits {
            entry[2..4].copy_from_slice(&((bits & 7) as u16).to_le_bytes());
        }
        if !matches!(tag(&entry), USER | GROUP) {
            // They are nobody's, whatever was written.
            entry[4..].copy_from_slice(&u32::MAX.to_le_bytes());
        }
        kept.extend(entry);
    }
    *list = kept;
    if !is_more {
        xattrs.remove(ACCESS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entries = entries
            .iter()
            .flat_map(|(tag, bits, id)| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat());
        VERSION.into_iter().chain(entries).collect()
    }

    fn after(entries: &[(u16, u16, u32)], mode: u32) -> Option<Vec<u8>> {
        let mut xattrs = BTreeMap::from([(ACCESS.to_vec(), list(entries))]);
        take_mode(&mut xattrs, mode);
        xattrs.remove(ACCESS)
    }

    #[test]
    fn the_bits_go_into_the_list() {
        let none = u32::MAX;
        let before = [(OWNER, 7, none), (USER, 7, 1000), (OWNER_GROUP, 7, none), (MASK, 7, 0), (OTHERS, 7, none)];
        let wanted = [(OWNER, 6, none), (USER, 7, 1000), (OWNER_GROUP, 7, none), (MASK, 4, none), (OTHERS, 1, none)];
        assert_eq!(after(&before, 0o641), Some(list(&wanted)));
        assert_eq!(after(&[(OWNER, 7, none), (OWNER_GROUP, 7, none), (OTHERS, 7, none)], 0o640), None);
    }

    #[test]
    fn what_is_no_list_stays() {
        for value in [&b""[..], b"\x02\0\0\0\x01", b"\x03\0\0\0"] {
            let mut xattrs = BTreeMap::from([(ACCESS.to_vec(), value.to_vec())]);
            take_mode(&mut xattrs, 0o644);
            assert_eq!(xattrs[ACCESS], value);
        }
    }
}
