-- Destroys all of these snapshots in one transaction group, or none; missing ones are passed over.
-- Arguments: dataset@snapshot, again and again.
local given = ...
local argv = given["argv"]
local function argument(at)
    if argv then return argv[at] end
    return given[tostring(at)]
end

local found = {}
local at = 1
while argument(at) do
    local snapshot = argument(at)
    if zfs.exists(snapshot) then
        local errno = zfs.check.destroy(snapshot)
        if errno ~= 0 then return "errno\t" .. snapshot .. "\t" .. errno end
        found[#found + 1] = snapshot
    end
    at = at + 1
end
for _, snapshot in ipairs(found) do
    assert(zfs.sync.destroy(snapshot) == 0)
end
return "done"
