"""The two roads that the scenes begin on, where they are in their towns, as OpenDRIVE texts of straight lines."""

from __future__ import annotations

_HEAD = """<?xml version="1.0" standalone="yes"?>
<OpenDRIVE><header revMajor="1" revMinor="4" name="" version="1" north="0" south="0" east="0" west="0">
<geoReference><![CDATA[+proj=tmerc +lat_0=0 +lon_0=0]]></geoReference></header>"""


def _lane(number: int, kind: str, width: float) -> str:
    return (
        f'<lane id="{number}" type="{kind}" level="false"><link/><width sOffset="0" a="{width}" b="0" c="0" d="0"/>'
        '<roadMark sOffset="0" type="broken" weight="standard" color="white" width="0.1" laneChange="both"/></lane>'
    )


def _road(number: int, x: float, y: float, heading: float, length: float, left: str, right: str) -> str:
    return f"""{_HEAD}
<road name="r" length="{length}" id="{number}" junction="-1"><link/><type s="0" type="town"/>
<planView><geometry s="0" x="{x}" y="{y}" hdg="{heading}" length="{length}"><line/></geometry></planView>
<elevationProfile><elevation s="0" a="0" b="0" c="0" d="0"/></elevationProfile><lateralProfile/>
<lanes><laneSection s="0">{left}<center><lane id="0" type="none" level="false">
<roadMark sOffset="0" type="solid" weight="standard" color="white" width="0.1" laneChange="none"/></lane></center>
<right>{right}</right></laneSection></lanes></road></OpenDRIVE>"""


_SIDE = (("driving", 4.0), ("shoulder", 0.3), ("sidewalk", 4.0))
# OpenDRIVE's y points the other way than CARLA's.
TOWNS = {
    "Town04": _road(
        47, 3.25, -66.0, 1.5707963267948966, 700.0, "",
        "".join(_lane(-i, "driving", 3.5) for i in (1, 2, 3, 4)) + _lane(-5, "shoulder", 2.5),
    ),
    "Town01": _road(
        12, 101.8, -197.1, 0.0, 224.0,
        "<left>" + "".join(_lane(3 - i, *side) for i, side in enumerate(reversed(_SIDE))) + "</left>",
        "".join(_lane(-i, *side) for i, side in enumerate(_SIDE, 1)),
    ),
}  # fmt: skip
