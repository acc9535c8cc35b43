-- Makes each volume's content its snapshot's, and sets its property, all in one transaction group, or does nothing. Newer snapshots
-- that were agreed to, by name and guid, are destroyed in it; any other that is newer stops everything.
-- Arguments: property, value, then dataset and snapshot's name, followed by "agreed", dataset@snapshot and "guid:" with it for
-- each, and "mark", dataset#bookmark and its transaction group for each; again and again.
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
    local dataset = argument(at)
    local member = { dataset = dataset, target = dataset .. "@" .. argument(at + 1), agreed = {}, marks = {}, going = {} }
    at = at + 2
    while argument(at) == "agreed" do
        member.agreed[argument(at + 1)] = argument(at + 2)
        at = at + 3
    end
    while argument(at) == "mark" do
        member.marks[argument(at + 1)] = tonumber(argument(at + 2))
        at = at + 3
    end
    members[#members + 1] = member
end

-- All is checked before anything is changed: what was changed would stay.
for _, member in ipairs(members) do
    if not zfs.exists(member.target) then return "missing\t" .. member.target end
    local made_in = zfs.get_prop(member.target, "createtxg")
    local newer = {}
    for other in zfs.list.snapshots(member.dataset) do
        local other_made_in = zfs.get_prop(other, "createtxg")
        if other_made_in > made_in then
            local guid = zfs.get_prop(other, "guid")
            if member.agreed[other] == "guid:" .. tostring(guid) then
                member.going[#member.going + 1] = other
            else
                -- They come in no order: whoever reads it sorts them.
                newer[#newer + 1] = other_made_in .. "\t" .. other
            end
        end
    end
    -- A bookmark behind the target stops a rollback. ZFS compares it with what is newest now, so while that is going to be
    -- destroyed it is compared here.
    if #member.going > 0 then
        for mark in zfs.list.bookmarks(member.dataset) do
            local mark_made_in = member.marks[mark]
            if mark_made_in == nil or mark_made_in > made_in then
                newer[#newer + 1] = (mark_made_in or made_in) .. "\t" .. mark
            end
        end
    end
    if #newer > 0 then return "newer\t" .. member.target .. "\t" .. table.concat(newer, "\t") end
    for _, snapshot in ipairs(member.going) do
        local errno = zfs.check.destroy(snapshot)
        if errno ~= 0 then return "errno\t" .. snapshot .. "\t" .. errno end
    end
    local errno = zfs.check.rollback(member.dataset)
    if errno ~= 0 then return "errno\t" .. member.dataset .. "\t" .. errno end
    errno = zfs.check.set_prop(member.dataset, property, value)
    if errno ~= 0 then return "errno\t" .. member.dataset .. "\t" .. errno end
end
for _, member in ipairs(members) do
    for _, snapshot in ipairs(member.going) do
        assert(zfs.sync.destroy(snapshot) == 0)
    end
    assert(zfs.sync.rollback(member.dataset) == 0)
    assert(zfs.sync.set_prop(member.dataset, property, value) == 0)
end
return "done"
