from rejudge2 import *
import bdbench_datamodel.evidence as ev, bdbench_datamodel.blame as bl
G=[(Path(f).stem,load(f)) for f in sorted(glob.glob("/work/tmp/tr/sets4/*.pkl")) if Path(f.replace("sets4","f4")).exists() and "-none-" not in f]
def mk(tol,share,htol):
    def blamed(groups,effects,transfers,against):
        place,first=int(against.argmax()),groups[0]
        if groups[place].kind=="handful":
            if htol is not None and first.members[groups[place].members].mean()>.5 and first.sharpness>groups[place].sharpness and against[0]>against[place]-htol: place=0
        elif groups[place].kind!="strongest" and len(groups)>1 and groups[1].kind=="rest": place=bl._of_two_parts(groups,effects,transfers)
        inside=groups[place].members
        around=[place]+[o for o,gr in enumerate(groups) if gr.kind!="rest" and gr.members.sum()>inside.sum() and gr.members[inside].mean()>=share and against[o]>against[place]-tol]
        return max(around,key=lambda o:groups[o].members.sum())
    return blamed
res={}
for tol,share,htol in ((1.5,.8,99),(1.5,.8,None),(2,.8,None),(3,.8,None),(5,.8,None),(1.5,.8,3),(1.5,.8,5),(1.5,.6,None),(3,.6,None),(5,.6,None)):
    ev.blamed=mk(tol,share,htol); a=[]
    for n,g in G:
        j=judge(g); P=g["roles"]==1; m=int(.1*len(P)); top=np.argsort(-j.scores,kind="stable")[:m]
        a.append((roc_auc_score(P,j.scores),P[top].sum()/min(P.sum(),m),j.flagged[P].mean(),j.flagged[~P].mean()))
    res[(tol,share,htol)]=np.array(a); print(tol,share,htol,np.round(np.mean(a,0),4))
for i,(n,g) in enumerate(G):
    v=[res[b][i,0] for b in res]
    if max(v)-min(v)>.004: print(n[:55],np.round(v,3))
