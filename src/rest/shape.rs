//! The shape of a JSON body: objects are objects. serde would also fill a type's fields from an array, in the order of
//! the source, and no client should come to rely on that.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// What a value is; reading one fails where an array stands directly in an array, or for an object.
pub(super) enum Shape {
    Array,
    Other,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        while let Some((name, value)) = map.next_entry::<Cow<'_, str>, Shape>()? {
            if matches!(value, Shape::Array) && name == OBJECT {
                return Err(A::Error::custom(NESTED));
            }
        }
        Ok(Shape::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        while let Some(item) = items.next_element::<Shape>()? {
            if let Shape::Array = item {
                return Err(A::Error::custom(NESTED));
            }
        }
        Ok(Shape::Array)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Other)
    }
}

/// The one field of a request that is an object.
const OBJECT: &str = "budget";
/// What is wrong with an array in an array, which no request has, and with one in the place of an object.
pub(super) const NESTED: &str = "an array stands where an object is wanted";
