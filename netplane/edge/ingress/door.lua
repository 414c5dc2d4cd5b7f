-- What maps and rules alone cannot decide for a request: where it goes, and what else happens to it.
-- Each part registers the actions that the configuration's rules name, as `lua.search` and `lua.policy`.

require("door.choose")
require("door.policy")
