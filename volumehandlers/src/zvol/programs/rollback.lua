-- Makes each volume's content its snapshot's, and sets its property, all in one transaction group, or does nothing.
-- Arguments: property, value, then dataset and snapshot's name, again and again.
local given = ...
local argv = given["argv"]
local function argument(at)
    if argv then return argv[at] end
    return given[tostring(at)]
end

local property, value = argument(1), argument(2)
local members = {}
local at = 3
while argument(at) do
    members[#members + 1] = { dataset = argument(at), target = argument(at) .. "@" .. argument(at + 1) }
    at = at + 2
end

-- All is checked before anything is changed: what was changed would stay.
for _, member in ipairs(members) do
    if not zfs.exists(member.target) then return "missing\t" .. member.target end
    local made_in = zfs.get_prop(member.target, "createtxg")
    local newer = {}
    for other in zfs.list.snapshots(member.dataset) do
        local other_made_in = zfs.get_prop(other, "createtxg")
        -- They come in no order: whoever reads it sorts them.
        if other_made_in > made_in then newer[#newer + 1] = other_made_in .. "\t" .. other end
    end
    if #newer > 0 then return "newer\t" .. member.target .. "\t" .. table.concat(newer, "\t") end
    local errno = zfs.check.rollback(member.dataset)
    if errno ~= 0 then return "errno\t" .. member.dataset .. "\t" .. errno end
    errno = zfs.check.set_prop(member.dataset, property, value)
    if errno ~= 0 then return "errno\t" .. member.dataset .. "\t" .. errno end
end
for _, member in ipairs(members) do
    assert(zfs.sync.rollback(member.dataset) == 0)
    assert(zfs.sync.set_prop(member.dataset, property, value) == 0)
end
return "done"
