"""An offline page holds script, style and state, and lets nothing of them escape."""

import base64
import json
import re

from vivit_lab.widgets.base import offline_page

STATE = {"text": "</script><b>", "numbers": [1, 2.5, None], "data": b"\x00\xff</script>"}


def embedded(page, name):
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)[1])


def test_state_and_script_come_back_as_they_were():
    script = 'export default { render() { return "</script>"; } };'
    page = offline_page(script, ".a::before { content: '</style>'; }", STATE, "A <title>")
    assert embedded(page, "script") == script
    state = embedded(page, "state")
    assert state["traits"] == {"text": STATE["text"], "numbers": STATE["numbers"]}
    assert base64.b64decode(state["buffers"]["data"]) == STATE["data"]
    assert "<title>A &lt;title&gt;</title>" in page
    assert page.count("</script>") == 3
    assert page.count("</style>") == 1


def test_the_page_may_not_ask_a_network():
    page = offline_page("", "", {}, "title")
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=", page.replace("default-src", "").replace("script-src", ""))
