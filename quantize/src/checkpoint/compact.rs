//! JSON without the white space between its values: a tokenizer is read by programs, and half of a pretty one is indentation.

/// The same JSON, shorter. What is no JSON stays what it is: no byte inside quotes is touched.
pub(super) fn compact(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut in_quotes, mut is_escaped) = (false, false);
    for &byte in json {
        if in_quotes {
            in_quotes = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            continue;
        } else {
            in_quotes = byte == b'"';
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::compact;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn quotes_keep_their_spaces() {
        assert_eq!(compact(br#"{ "a \" b" : [ 1,\n\t"c \\" , " d" ] }"#), br#"{"a \" b":[1,"c \\"," d"]}"#);
    }

    proptest! {
        #[test]
        fn values_stay_the_same(map in prop::collection::btree_map(".*", prop::collection::vec(".*", 0..4), 0..8)) {
            let value = serde_json::json!(map);
            let pretty = serde_json::to_vec_pretty(&value).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&compact(&pretty)).unwrap(), value.clone());
            prop_assert_eq!(compact(&pretty), serde_json::to_vec(&value).unwrap());
        }
    }
}
