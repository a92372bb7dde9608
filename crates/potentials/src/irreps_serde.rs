//! Irreps as text ("128x0e+128x1o") in configurations.

use serde::{Deserialize, Deserializer, Serializer, de::Error};
use tesseral_o3::Irreps;

pub(crate) fn serialize<S: Serializer>(irreps: &Irreps, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(irreps)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Irreps, D::Error> {
    String::deserialize(d)?.parse().map_err(D::Error::custom)
}
